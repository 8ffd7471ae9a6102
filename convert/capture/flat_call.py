"""A model's forward as a function of flat inputs and outputs, whatever its arguments are."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from ..calls.own_classes import register
from ..errors import CaptureError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Longest form of a call that a message shows.
_SHOWN = 120


def check_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses inputs that `model.forward` can't be called with.

    Raises:
        CaptureError: with forward's own arguments and the batch that would do.
    """
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        parameters = list(signature.parameters.values())
        plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        needed = [p.name for p in plain if p.default is p.empty]
        given = f"{len(args)} by position" if args else ""
        if kwargs:
            given += (" and " if given else "") + "by name " + ", ".join(map(str, kwargs))
        form = ", ".join(f"{name!r}: ..." for name in needed or [p.name for p in plain])
        advice = f"give a dict {{{form[:_SHOWN]}}}"
        if len(needed) == 1 and (len(args) > 1 or (kwargs and needed[0] not in kwargs)):
            inner = "{...}" if kwargs else "[...]"
            advice = f"if all of it is one input, give a dict {{{needed[0]!r}: {inner}}}"
        elif any(p.kind is p.POSITIONAL_ONLY for p in plain):
            names = ", ".join(needed)
            advice = f"inputs by position only are given as a tuple: (({names}), label)"
        arguments = ", ".join(map(str, parameters))
        raise CaptureError(
            f"{type(model).__name__}.forward({arguments[:_SHOWN]}) doesn't take this batch, which "
            f"gives {given[:_SHOWN]} ({str(error)[:_SHOWN]}); {advice}"
        ) from error


@dataclass
class FlatCall:
    """A call of a model in flat form.

    Args:
        leaves: the inputs, in the order of `Signature`; those that aren't tensors are None.
        names: of the graph's inputs, one a leaf.
        in_spec: the tree of ``(args, kwargs)``.
        constants: the values of inputs that aren't tensors.
        out_spec: the tree of what forward returned last.
        copies: whether forward gets copies of the inputs, because it writes to them.
    """

    leaves: list[Tensor | None]
    names: list[str]
    in_spec: pytree.TreeSpec
    constants: list[Any]
    out_spec: pytree.TreeSpec | None = field(default=None)
    copies: bool = False

    @classmethod
    def of(cls, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FlatCall:
        """Reads the form off an example call."""
        found, in_spec = pytree.tree_flatten_with_path((args, kwargs))
        positional = _names(model, len(args))
        names: list[str] = []
        for path, _ in found:
            _, entry, *rest = path
            by_place = isinstance(entry, pytree.SequenceKey)
            owner = positional[int(_of_key(entry))] if by_place else _of_key(entry)
            text = "_".join([owner, *map(_of_key, rest)])
            text = re.sub(r"\W", "_", text)
            name = text if text.isidentifier() else f"input_{text}"
            while name in names:
                name += "_"
            names.append(name)
        leaves = [leaf if isinstance(leaf, Tensor) else None for _, leaf in found]
        constants = [None if isinstance(leaf, Tensor) else leaf for _, leaf in found]
        return cls(leaves, names, in_spec, constants)

    def run(self, forward: Callable[..., Any], leaves: tuple[Any, ...]) -> tuple[Any, ...]:
        """Flat outputs for flat inputs; keeps the form of the outputs."""
        given = [
            constant if leaf is None else leaf.clone() if self.copies else leaf
            for leaf, constant in zip(leaves, self.constants, strict=True)
        ]
        args, kwargs = pytree.tree_unflatten(given, self.in_spec)
        result = forward(*args, **kwargs)
        register(result)
        outputs, self.out_spec = pytree.tree_flatten(result)
        return tuple(outputs)


def _names(model: nn.Module, count: int) -> list[str]:
    """The names of the first `count` inputs by position."""
    names = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            break
        names.append(parameter.name)
    return (names + [f"input{i}" for i in range(len(names), count)])[:count]


def _of_key(key: Any) -> str:
    for kind in ("key", "name", "idx"):
        if hasattr(key, kind):
            return str(getattr(key, kind))
    return str(key)


def exportable(model: nn.Module) -> nn.Module:
    """What torch.export is given for a model: itself, or a module that shares all it has.

    torch.export reads the graph of a GraphModule, and doesn't call its forward.
    """
    if not isinstance(model, GraphModule):
        return model
    shell = nn.Module.__new__(nn.Module)
    shell.__dict__ = vars(model)
    return shell


@contextmanager
def called_flat(
    model: nn.Module, call: FlatCall, within: Callable[[], Any]
) -> Iterator[Callable[..., Any]]:
    """Gives `model` a forward of flat inputs inside the block; its own hooks run around its own.

    Args:
        model: changed inside the block, and put back.
        call: the form of the call.
        within: makes the context in which its own forward runs.
    """
    own = vars(model).get("forward")
    forward = model.forward
    hooks = {name: vars(model)[name] for name in _HOOKS if vars(model).get(name)}

    def hooked(*args: Any, **kwargs: Any) -> Any:
        here = {name: vars(model)[name] for name in (*hooks, "forward")}
        vars(model).update(hooks | {"forward": forward})
        try:
            return model(*args, **kwargs)
        finally:
            vars(model).update(here)

    def flat(*leaves: Any) -> tuple[Any, ...]:
        with within():
            return call.run(hooked if hooks else forward, leaves)

    by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, by_position) for name in call.names]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    vars(model).update({name: type(held)() for name, held in hooks.items()} | {"forward": flat})
    try:
        yield flat
    finally:
        vars(model).update(hooks)
        if own is None:
            del vars(model)["forward"]
        else:
            vars(model)["forward"] = own
