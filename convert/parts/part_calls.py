"""How a model calls one of its parts: in one form of arguments, or in several."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..calls.call_signature import Signature
from ..calls.own_classes import register, same_form
from ..calls.sizes import Shapes

# Arguments that a graph can hold as they are.
_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class PartCall:
    """A call of a part, in one way whichever way the model has written it.

    Args:
        args, kwargs: the arguments; those that were left out stand there as their defaults.
        names: of the arguments, in their order.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]

    @property
    def leaves(self) -> list[Any]:
        """The flat arguments."""
        return pytree.tree_leaves((self.args, self.kwargs))

    @property
    def tensors(self) -> list[Tensor]:
        """The flat arguments that are tensors."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    @property
    def shapes(self) -> Shapes:
        """The shapes of the tensors, by the names of the flat arguments."""
        found: dict[str, tuple[int, ...]] = {}
        for name, value in self._named():
            leaves = pytree.tree_leaves(value)
            for index, leaf in enumerate(leaves):
                if isinstance(leaf, Tensor):
                    found[name if len(leaves) == 1 else f"{name}[{index}]"] = tuple(leaf.shape)
        return found

    def opaque(self) -> tuple[str, Any] | None:
        """The first argument that no graph can hold: its name and what it is."""
        for name, value in self._named():
            for leaf in pytree.tree_leaves(value):
                if not isinstance(leaf, (Tensor, *_PLAIN)):
                    return name, leaf
        return None

    def form(self) -> Form:
        """What must be alike in calls that one network takes."""
        register((self.args, self.kwargs))
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        constants = tuple(
            (len(leaf.shape), leaf.is_floating_point())
            if isinstance(leaf, Tensor)
            else (type(leaf), leaf)
            for leaf in leaves
        )
        named = tuple(
            (name, value)
            for name, value in self._named()
            if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
        )
        return Form(self.names, spec, constants, named)

    def _named(self) -> list[tuple[str, Any]]:
        return list(zip(self.names, [*self.args, *self.kwargs.values()], strict=True))

    def spread(self, signature: Signature | None = None) -> PartCall:
        """The call with inputs of one row as long as the others: ``[1, L]`` beside ``[N, L, F]``.

        Args:
            signature: of a network, which says of which inputs the first axis is the batch; None
                for all.
        """
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        batched = [isinstance(leaf, Tensor) and leaf.dim() > 0 for leaf in leaves]
        if signature is not None:
            axes = dict(zip(_flat_names(signature), signature.axes, strict=True))
            names = self._flat_names()
            batched = [b and axes[n] == 0 for b, n in zip(batched, names, strict=True)]
        long = [leaf.shape[0] for leaf, b in zip(leaves, batched, strict=True) if b]
        rows = next((n for n in long if n > 1), 1)
        if rows == 1 or 1 not in long:
            return self
        made = [
            leaf.expand(rows, *leaf.shape[1:]) if b and leaf.shape[0] == 1 else leaf
            for leaf, b in zip(leaves, batched, strict=True)
        ]
        args, kwargs = pytree.tree_unflatten(made, spec)
        return PartCall(args, kwargs, self.names)

    def batched(self) -> PartCall:
        """The call of a single image, whose tensors have no batch, as a batch of one."""

        def longer(leaf: Any) -> Any:
            return leaf[None] if isinstance(leaf, Tensor) else leaf

        args, kwargs = pytree.tree_map(longer, (self.args, self.kwargs))
        return PartCall(args, kwargs, self.names)

    def _flat_names(self) -> list[tuple[str, int]]:
        """The argument and the place in it of every leaf."""
        return [
            (name, i)
            for name, value in self._named()
            for i in range(len(pytree.tree_leaves(value)))
        ]

    def fits(self, signature: Signature) -> bool:
        """Whether a network with this signature takes the call, whatever its shapes are."""
        values = dict(self._named())
        if set(values) != set(signature.names):
            return False
        ordered = [values[name] for name in signature.names]
        register(ordered)
        leaves, spec = pytree.tree_flatten(ordered)
        if spec != signature.in_spec and not same_form(spec, signature.in_spec):
            return False
        for leaf, expected, constant in zip(
            leaves, signature.inputs, signature.constants, strict=True
        ):
            if expected is None:
                if type(leaf) is not type(constant) or leaf != constant:
                    return False
            elif not isinstance(leaf, Tensor) or leaf.dim() != len(expected.shape):
                return False
            elif leaf.is_floating_point() != expected.dtype.is_floating_point:
                return False
        return True

    def differences(self, signature: Signature) -> str:
        """What a network with this signature isn't called with, in words."""
        values = dict(self._named())
        found = []
        places = _places(signature)
        for name in dict.fromkeys([*signature.names, *values]):
            if name not in values or name not in places:
                found.append(f"{name} {'is left out' if name not in values else 'is given'}")
                continue
            now, then = _shown(values[name]), places[name]
            if now != then:
                found.append(f"{name} is {now} and was {then}")
        return "; ".join(found[:3]) or "the arguments have another structure"


@dataclass(frozen=True)
class Form:
    """What is alike in all calls of a part that one network takes.

    Args:
        names: of the arguments.
        spec: the tree of the arguments.
        leaves: number of axes and kind of every tensor, and the values of everything else.
        constants: the arguments without a tensor, by name.
    """

    names: tuple[str, ...]
    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]
    constants: tuple[tuple[str, Any], ...] = field(compare=False)


def single(result: Any) -> Any:
    """What a batch of one gave, without the batch."""
    register(result)
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[0], result)


def _flat_names(signature: Signature) -> list[tuple[str, int]]:
    """The argument and the place in it of every flat input of a network."""
    children = signature.in_spec.children()
    return [
        (name, i)
        for name, child in zip(signature.names, children, strict=True)
        for i in range(child.num_leaves)
    ]


def called_with(forward: inspect.Signature, args: Any, kwargs: Mapping[str, Any]) -> PartCall:
    """A call in the one way: arguments that were left out stand there as their defaults."""
    try:
        bound = forward.bind(*args, **kwargs)
    except TypeError:
        # The module says itself what is wrong.
        return PartCall(tuple(args), dict(kwargs), _names(forward, len(args), kwargs))
    given = bound.arguments
    for name, parameter in forward.parameters.items():
        if name not in given and isinstance(parameter.default, _PLAIN):
            given[name] = parameter.default
    order = {name: i for i, name in enumerate(forward.parameters)}
    bound.arguments = dict(sorted(given.items(), key=lambda pair: order[pair[0]]))
    return PartCall(bound.args, bound.kwargs, _names(forward, len(bound.args), bound.kwargs))


def _names(forward: inspect.Signature, count: int, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the arguments of a call, as `Signature` has them."""
    names = []
    for parameter in forward.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            break
        names.append(parameter.name)
    names += [f"input{i}" for i in range(len(names), count)]
    return (*names[:count], *kwargs)


def forward_of(module: torch.nn.Module) -> inspect.Signature:
    """The arguments of a module's forward."""
    made: Callable[..., Any] = module.forward
    return inspect.signature(made)


def _places(signature: Signature) -> dict[str, str]:
    """What each argument of a network was, in words."""
    found, at = {}, 0
    for name, child in zip(signature.names, signature.in_spec.children(), strict=True):
        count = child.num_leaves
        inputs, constants = signature.inputs[at : at + count], signature.constants[at : at + count]
        at += count
        if count == 1 and child.is_leaf():
            found[name] = repr(constants[0]) if inputs[0] is None else "a tensor"
        else:
            found[name] = f"a {child.type.__name__} of {count}"
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return "a tensor"
    leaves, spec = pytree.tree_flatten(value)
    if not spec.is_leaf():
        return f"a {spec.type.__name__} of {len(leaves)}"
    return repr(value) if isinstance(value, _PLAIN) else f"a {type(value).__name__}"
