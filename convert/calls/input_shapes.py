"""The shapes of a network's inputs, and the check that a call's inputs have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..common.tracing import traced
from ..errors import InputError
from .sizes import NewShape, Place, Size, as_asked, names_for


@dataclass(frozen=True)
class TensorInput:
    """One tensor that the network takes.

    Args:
        name: of the input.
        shape: None where the batch size goes, the name of a `Size` where a length varies.
        dtype: at conversion.
        rows: of the table in which its whole numbers are looked up; None for no table.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: torch.dtype
    rows: int | None = None

    @property
    def axis(self) -> int | None:
        """The axis of the images; None for an input without a batch."""
        return self.shape.index(None) if None in self.shape else None

    def __str__(self) -> str:
        return f"{self.name} [{', '.join('batch' if n is None else str(n) for n in self.shape)}]"

    def lengths(self, batch: int, sizes: Sequence[Size]) -> tuple[int, ...]:
        """Its shape at capture.

        Args:
            batch: how many images.
            sizes: the lengths that vary.
        """
        known = {size.name: size.example for size in sizes}
        return tuple(batch if n is None else known[n] if isinstance(n, str) else n
                     for n in self.shape)  # fmt: skip


Inputs = Sequence[TensorInput | None]


def check_shapes(leaves: Sequence[Any], inputs: Inputs, sizes: Sequence[Size]) -> int | None:
    """The images of a call; None if no input has a batch.

    Args:
        leaves: flat inputs of a call.
        inputs: what they must be.
        sizes: the lengths that vary.

    Raises:
        InputError: for an input that isn't a tensor, of another number of dimensions or kind of
            number, or lengths that don't agree with each other or with what was captured.
    """
    pairs = [(leaf, i) for leaf, i in zip(leaves, inputs, strict=True) if i is not None]
    for leaf, expected in pairs:
        _check_kind(leaf, expected)
    if any(
        isinstance(n, int) and n != found
        for leaf, expected in pairs
        for n, found in zip(expected.shape, leaf.shape, strict=True)
    ):
        raise _new_shape(leaves, inputs)
    batch = _one_length(_along(pairs, None), "batch sizes")
    for size in sizes:
        length = _one_length(_along(pairs, size.name), f"lengths for {size.name}")
        owner, axis, _ = next(_along(pairs, size.name))
        assert length is not None
        size.check(owner.name, axis, length)
    for leaf, expected in pairs:
        _check_rows(leaf, expected)
    return batch


def _check_rows(leaf: Tensor, expected: TensorInput) -> None:
    """Refuses whole numbers that the table has no row for."""
    rows = expected.rows
    if rows is None or traced() or leaf.is_meta or not leaf.numel() or leaf.dtype == torch.bool:
        return
    low, high = (int(bound) for bound in torch.aminmax(leaf))
    if low < 0 or high >= rows:
        wrong = low if low < 0 else high
        raise InputError(
            f"{expected.name} holds the number {wrong}; the network's table for it has {rows} rows,"
            f" so give numbers from 0 to {rows - 1} (of the vocabulary that the network was trained"
            " with)"
        )


def _check_kind(leaf: Any, expected: TensorInput) -> None:
    if not isinstance(leaf, Tensor):
        raise InputError(f"{expected.name} is a {type(leaf).__name__}; give a tensor")
    if leaf.dim() != len(expected.shape):
        raise InputError(
            f"{expected.name} has shape {tuple(leaf.shape)}; the network was converted for "
            f"{expected}: give it {len(expected.shape)} axes"
        )
    if leaf.is_floating_point() != expected.dtype.is_floating_point:
        raise InputError(
            f"{expected.name} is {leaf.dtype}; the network was converted for {expected.dtype}"
        )


def _along(
    pairs: Sequence[tuple[Tensor, TensorInput]], name: str | None
) -> Iterator[tuple[TensorInput, int, int]]:
    """Where a size is, and how long that is."""
    for leaf, expected in pairs:
        for axis, n in enumerate(expected.shape):
            if n == name:
                yield expected, axis, leaf.shape[axis]


def _one_length(found: Iterator[tuple[TensorInput, int, int]], what: str) -> int | None:
    """The length that several inputs must have in common."""
    every = list(found)
    # A compiler would take a key of a dict for a constant.
    if all(length == every[0][2] for _, _, length in every[1:]):
        return every[0][2] if every else None
    lengths: dict[int, tuple[str, int]] = {}
    for expected, axis, length in every:
        lengths.setdefault(length, (expected.name, axis))
    plain = not what.startswith("batch")
    listed = ", ".join(
        f"{name}: {length}" + (f" (axis {axis})" if axis or plain else "")
        for length, (name, axis) in lengths.items()
    )
    raise InputError(f"the inputs have different {what}: {listed}")


def _new_shape(leaves: Sequence[Any], inputs: Inputs) -> NewShape:
    """What is said of lengths that are part of the network, and how to ask for others."""
    owners = ["" if i is None else i.name for i in inputs]
    shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else None for leaf in leaves]
    new: list[Place] = []
    held: dict[Place, str] = {}
    for place, (shape, expected) in enumerate(zip(shapes, inputs, strict=True)):
        if shape is None or expected is None:
            continue
        for axis, (length, n) in enumerate(zip(shape, expected.shape, strict=True)):
            if isinstance(n, str):
                held[place, axis] = n
            elif n is not None and n != length:
                new.append((place, axis))
    names = names_for(new, [shapes], owners, held)
    place, axis = new[0]
    first = inputs[place]
    assert first is not None
    asked = as_asked((owners[i], a, n) for (i, a), n in (held | names).items())
    told = f"{shapes[place]}: {shapes[place][axis]} along axis {axis}"  # type: ignore[index]
    by_name = {o: s for o, s in zip(owners, shapes, strict=True) if s is not None}
    return NewShape(
        f"{first.name} has shape {told}; the network was converted for {first}: resize the input, "
        f"or convert again with {asked}",
        by_name,
    )
