"""How a captured network is called: its inputs, their shapes, and the form of its outputs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..common.tracing import traced
from ..errors import InputError
from .batch_bounds import BatchBounds, parts
from .batch_inputs import batch_size, leading, split_batch
from .own_classes import register, same_form


@dataclass(frozen=True)
class TensorInput:
    """One tensor that the network takes; `shape` has None where the batch size goes."""

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.name} [{', '.join('batch' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """Names, tensors and trees of a call.

    Args:
        names: parameter names in the order in which their values are flattened.
        inputs: one entry a leaf; None for a leaf that isn't a tensor.
        constants: the values of those leaves.
        in_spec: tree of the values, one a name.
        out_spec: tree of the outputs.
        channels_last: lays images ``[N, C, H, W]`` on the CPU out so; see `layout`.
        positional: how many of the inputs were given by position at conversion.
        bounds: the sizes of a batch that are taken; None for any.
    """

    names: tuple[str, ...]
    inputs: tuple[TensorInput | None, ...]
    constants: tuple[Any, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    channels_last: bool = False
    positional: int = 1
    bounds: BatchBounds | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out_spec: pytree.TreeSpec,
        size: int,
        bounds: BatchBounds | None = None,
    ) -> Signature:
        """Reads the signature off an example call whose batch size is `size`."""
        positional: list[str] = []
        for parameter in inspect.signature(model.forward).parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                break
            positional.append(parameter.name)
        positional += [f"input{i}" for i in range(len(positional), len(args))]
        names = (*positional[: len(args)], *kwargs)
        values = [*args, *kwargs.values()]
        leaves, in_spec = pytree.tree_flatten(values)
        # With one name per leaf a message can name the input; nested ones are numbered.
        owners = [
            name if count == 1 else f"{name}[{i}]"
            for name, value in zip(names, values, strict=True)
            for count in [len(pytree.tree_leaves(value))]
            for i in range(count)
        ]
        inputs = tuple(
            TensorInput(
                owner,
                tuple(
                    None if axis == 0 and length == size else length
                    for axis, length in enumerate(leaf.shape)
                ),
                leaf.dtype,
            )
            if isinstance(leaf, Tensor)
            else None
            for owner, leaf in zip(owners, leaves, strict=True)
        )
        constants = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        positions = len(args)
        return cls(names, inputs, constants, in_spec, out_spec, positional=positions, bounds=bounds)

    def split(
        self, batch: Any, device: torch.device | str | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs of a batch of this network; see `split_batch`."""
        return split_batch(batch, device, takes=self.positional)

    def within(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Calibration batches that can be read as often as `batches`, in sizes that are taken.

        Images that are too few for another batch are left out.
        """
        return batches if self.bounds is None else _Within(batches, self, self.bounds)

    def taken(self, batch: Any) -> Iterable[Any]:
        """A batch, cut where it is larger than what the network takes at once.

        Raises:
            InputError: if it can't be cut into sizes that are taken.
        """
        size = 0 if self.bounds is None else batch_size(self.split(batch))
        if self.bounds is None or not size or self.bounds.holds(size):
            return [batch]
        return parts(batch, size, self.bounds.sizes(size, 1))

    def label(self, batch: Any) -> Any:
        """What follows the inputs in a batch of this network; None if nothing does."""
        if not isinstance(batch, tuple | list):
            return None
        rest = batch[leading(batch, self.positional) :]
        return rest[0] if rest else None

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The flat inputs of a call, checked.

        Raises:
            InputError: for a missing or unknown input, another tree, shape, or kind of number.
        """
        takes = ", ".join(str(tensor) for tensor in self.inputs if tensor is not None)
        if len(args) > len(self.names):
            raise InputError(f"{len(args)} inputs given; the network takes {takes}")
        values = dict(zip(self.names, args, strict=False))
        unknown = [n for n in kwargs if n not in self.names or n in values]
        values.update(kwargs)
        missing = [name for name in self.names if name not in values]
        if unknown or missing:
            raise InputError(
                f"missing inputs {missing}, unexpected inputs {unknown}; the network takes {takes}"
            )
        ordered = [values[name] for name in self.names]
        leaves, spec = pytree.tree_flatten(ordered)
        if spec != self.in_spec:
            register(ordered)
            leaves, spec = pytree.tree_flatten(ordered)
        if spec != self.in_spec and not same_form(spec, self.in_spec):
            raise InputError(f"the inputs have another structure; the network takes {takes}")
        sizes: dict[int, str] = {}
        for leaf, expected, constant in zip(leaves, self.inputs, self.constants, strict=True):
            if expected is None:
                if leaf != constant:
                    raise InputError(
                        f"an input that was {constant!r} at conversion is {leaf!r}; it is part of "
                        "the network now, convert again for another value"
                    )
            else:
                sizes.setdefault(self._check(leaf, expected), expected.name)
        sizes.pop(-1, None)
        if len(sizes) > 1:
            listed = ", ".join(f"{name}: {size}" for size, name in sizes.items())
            raise InputError(f"the inputs have different batch sizes: {listed}")
        if self.bounds is not None and sizes:
            self.bounds.check(next(iter(sizes)))
        return [self._laid_out(leaf, torch.channels_last) for leaf in leaves]

    def _check(self, leaf: Any, expected: TensorInput) -> int:
        """The leaf's batch size, -1 if it has none."""
        if not isinstance(leaf, Tensor):
            raise InputError(f"{expected.name} is a {type(leaf).__name__}; give a tensor")
        fits = leaf.dim() == len(expected.shape) and all(
            length is None or length == found
            for length, found in zip(expected.shape, leaf.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"{expected.name} has shape {tuple(leaf.shape)}; the network was converted for "
                f"{expected}: resize the input or convert again with inputs of this size"
            )
        if leaf.is_floating_point() != expected.dtype.is_floating_point:
            raise InputError(
                f"{expected.name} is {leaf.dtype}; the network was converted for {expected.dtype}"
            )
        return leaf.shape[0] if expected.shape and expected.shape[0] is None else -1

    def pieces(self, leaves: Sequence[Any], count: int) -> list[list[Any]]:
        """Flat inputs cut along the batch into at most `count` pieces; none is empty."""
        batched = [t is not None and t.shape[:1] == (None,) for t in self.inputs]
        sizes = [len(leaf) for leaf, cut in zip(leaves, batched, strict=True) if cut]
        count = min([count, *sizes])
        if count < 2:
            return [list(leaves)]
        lengths = (self.bounds or BatchBounds()).sizes(min(sizes), count)
        parts = [
            leaf.split(lengths) if cut else [leaf] * len(lengths)
            for leaf, cut in zip(leaves, batched, strict=True)
        ]
        return [list(piece) for piece in zip(*parts, strict=True)]

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """The outputs in the form in which the model returned them."""
        leaves = [self._laid_out(leaf, torch.contiguous_format) for leaf in outputs]
        return pytree.tree_unflatten(leaves, self.out_spec)

    def _laid_out(self, leaf: Any, layout: torch.memory_format) -> Any:
        image = isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point()
        if not self.channels_last or not image or traced() or leaf.device.type != "cpu":
            return leaf
        return leaf.contiguous(memory_format=layout)


@dataclass(frozen=True)
class _Within:
    """Batches, cut to the sizes that a network takes."""

    batches: Iterable[Any]
    signature: Signature
    bounds: BatchBounds

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            size = batch_size(self.signature.split(batch))
            if (count := self.bounds.part_of(size)) == size and self.bounds.holds(size):
                yield batch
            elif count:
                yield from parts(batch, size, self.bounds.sizes(count, 1))
