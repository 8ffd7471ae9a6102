"""Where the images of a batch lie in a tensor, and tensors cut or put in order by that."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

# The batch axis of every flat input; None for one without a batch.
Axes = tuple[int | None, ...]


@dataclass(frozen=True)
class Layout:
    """Where the images lie in one output.

    An axis may hold several rows of every image: ``[N*T, C]``. It is read as ``[before, N, after]``
    then: ``after`` rows of an image lie together, or ``before`` rows of different images follow
    each other.

    Args:
        axis: of the images; None if the output holds no image by itself.
        before, after: rows of an image along that axis; both 1 where each image has one.
        mixes: whether a part of it depends on several images.
        varies: whether the batch size decides another length of it, too.
    """

    axis: int | None = 0
    before: int = 1
    after: int = 1
    mixes: bool = False
    varies: bool = False

    @property
    def rows(self) -> int:
        """Rows of an image along its axis."""
        return self.before * self.after

    def by_row(self, output: Tensor) -> Tensor:
        """The output with the axis of the images first, ``[N, ...]`` or ``[N*T, ...]``."""
        return output if not self.axis else output.movedim(self.axis, 0)

    def by_image(self, output: Tensor) -> Tensor:
        """The output as ``[N, ...]``; of several rows of an image the places come last."""
        rows = self.by_row(output)
        return rows if self.axis is None else self.split_rows(rows)

    def split_rows(self, rows: Tensor) -> Tensor:
        """``[N, ..., T]`` of ``[N*T, ...]``."""
        return rows if self.rows == 1 else self._apart(rows).movedim(1, -1)

    def one_by_one(self, output: Tensor) -> Tensor:
        """The output with one image behind the other; of several rows of an image ``[N, T, ...]``.

        Unchanged where that is so in memory already.
        """
        if self.axis is None or (self.axis == 0 and self.before == 1):
            return output
        rows = self.by_row(output)
        return rows if self.rows == 1 else self._apart(rows)

    def _apart(self, rows: Tensor) -> Tensor:
        """``[N, T, ...]`` of ``[N*T, ...]``."""
        images = rows.shape[0] // self.rows
        split = rows.unflatten(0, (self.before, images, self.after))
        return split.movedim(1, 0).flatten(1, 2)


def resized(leaves: Sequence[Any], axes: Axes, count: int, start: int = 0) -> list[Any]:
    """Flat inputs with `count` images from `start` on, from the first again after the last."""

    def take(leaf: Any, axis: int | None) -> Any:
        if axis is None:
            return leaf
        index = torch.arange(start, start + count, device=leaf.device) % leaf.shape[axis]
        return leaf[(slice(None),) * axis + (index,)]

    return [take(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)]


def parts(leaves: Sequence[Any], axes: Axes, sizes: Sequence[int]) -> list[list[Any]]:
    """Flat inputs cut along the batch into pieces of these sizes; a rest is left out."""
    begins = itertools.accumulate(sizes, initial=0)
    return [
        [
            leaf if axis is None else leaf.narrow(axis, begin, size)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        for begin, size in zip(begins, sizes, strict=False)
    ]


def image_count(leaves: Sequence[Any], axes: Axes) -> int:
    """Images of flat inputs: the length of the first batch axis.

    Raises:
        InputError: if no input has a batch.
    """
    for leaf, axis in zip(leaves, axes, strict=True):
        if axis is not None:
            return int(leaf.shape[axis])
    raise InputError("no input of the network has a batch; there are no images to count")


def blocks(length: int, images: int) -> Iterator[tuple[int, int]]:
    """Ways to read an axis as ``[before, images, after]``: rows of an image together first."""
    if length % images:
        return
    rows = length // images
    yield 1, rows
    if rows > 1:
        yield rows, 1
    for before in range(2, rows):
        if rows % before == 0:
            yield before, rows // before


def tensor_sizes(leaves: Sequence[Any]) -> set[int]:
    """Every length of every tensor."""
    return {int(n) for leaf in leaves if isinstance(leaf, Tensor) for n in leaf.shape}


def fresh_sizes(taken: set[int]) -> tuple[int, int]:
    """Two small numbers of images that are no length of an input: the first from 3 on, else 2."""
    first = next(n for n in range(3, 3 + len(taken) + 1) if n not in taken)
    free = (n for n in range(2, first + len(taken) + 2) if n not in taken and n != first)
    return first, next(free)
