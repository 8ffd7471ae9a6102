"""Convolutions in the form that NIR's library reads: square, dense, with even padding.

The library takes the first length of a kernel for all of them, and the number of inputs from the
weights. Zeros are written around a kernel until it is square; they change nothing of the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .nir_graph import Array, NirGraph, NirSignal, Shape


@dataclass(frozen=True)
class Axis:
    """What a convolution does along one axis.

    Args:
        length: of what comes in.
        kernel: places of the kernel.
        stride, dilation: as usual.
        first, last: zeros before and behind; a negative number takes values away.
    """

    length: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    first: int = 0
    last: int = 0

    @property
    def free(self) -> int:
        """Places behind the first window."""
        return self.length + self.first + self.last - self.dilation * (self.kernel - 1) - 1

    def places(self, size: int) -> int | None:
        """How many zeros come before the kernel where it has `size` places and even padding.

        None where no number of them gives the same windows.
        """
        for before in range(size - self.kernel + 1):
            behind = size - self.kernel - before
            free = self.free + self.first - self.last + self.dilation * (before - behind)
            if self.padding(before) >= 0 and free // self.stride == self.free // self.stride:
                return before
        return None

    def padding(self, before: int) -> int:
        """Zeros on either side of the input, with so many before the kernel."""
        return self.first + before * self.dilation


def convolve(
    g: NirGraph,
    name: str,
    x: NirSignal,
    weight: Array,
    axes: Sequence[Axis],
    bias: Array | None = None,
) -> NirSignal | None:
    """A convolution without groups; None where no square kernel gives it.

    Args:
        g: the graph.
        name: of the node.
        x: ``[C, W]`` or ``[C, H, W]``.
        weight: ``[D, C, ...]``.
        axes: behind the channels.
        bias: ``[D]``.
    """
    largest = max(axis.kernel for axis in axes)
    reach = max(abs(axis.first) + abs(axis.last) for axis in axes)
    for size in range(largest, largest + 2 * reach + 3):
        before = [axis.places(size) for axis in axes]
        found = [n for n in before if n is not None]
        if len(found) == len(axes):
            return _node(g, name, x, weight, axes, bias, size, found)
    return None


def _node(
    g: NirGraph, name: str, x: NirSignal, weight: Array, axes: Sequence[Axis], bias: Array | None,
    size: int, before: Sequence[int],
) -> NirSignal:  # fmt: skip
    behind = [size - axis.kernel - n for axis, n in zip(axes, before, strict=True)]
    widened = np.pad(weight, [(0, 0), (0, 0), *zip(before, behind, strict=True)])
    shape = (len(weight), *(axis.free // axis.stride + 1 for axis in axes))
    return g.convolved(
        name, x, widened, shape, bias,
        stride=tuple(axis.stride for axis in axes),
        padding=tuple(axis.padding(n) for axis, n in zip(axes, before, strict=True)),
        dilation=tuple(axis.dilation for axis in axes),
    )  # fmt: skip


def moved(
    g: NirGraph, name: str, x: NirSignal, axis: int, first: int, last: int, step: int = 1
) -> NirSignal | None:
    """Every step-th value along rows or columns, with zeros around them or values taken away.

    Args:
        g, name, x: as for `convolve`.
        axis: of x, not its first.
        first, last: zeros before and behind; negative for values that are left out.
        step: between the values.
    """
    if len(x.shape) not in (2, 3):
        return None
    axes = [Axis(length, 1) for length in x.shape[1:]]
    axes[axis - 1] = Axis(x.shape[axis], 1, step, 1, first, last)
    kernel: Shape = (1,) * len(axes)
    return convolve(g, name, x, np.eye(x.shape[0]).reshape(*[x.shape[0]] * 2, *kernel), axes)


def dense(weight: Array, groups: int) -> Array:
    """Weights without groups, with zeros between them."""
    if groups == 1:
        return weight
    outputs, inputs, *kernel = weight.shape
    found = np.zeros((outputs, inputs * groups, *kernel), weight.dtype)
    each = outputs // groups
    for i in range(groups):
        rows = slice(i * each, (i + 1) * each)
        found[rows, i * inputs : (i + 1) * inputs] = weight[rows]
    return found
