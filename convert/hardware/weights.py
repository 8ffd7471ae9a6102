"""Weights as small integers, in units that make what follows a shift."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .whole_numbers import MOST

# What an accumulator may be shifted by, to the left and to the right.
_SHIFTS = -30, 46


@dataclass(frozen=True)
class WholeWeights:
    """Integer weights of a layer.

    Args:
        integers: int64, of the weight's shape.
        units: what an accumulator's 1 is worth, by output channel ``[C]`` or ``[1]``, float64.
        shifts: to the right, from the accumulator to the layer's result, likewise, int64.
        sums: the largest accumulator without a bias, likewise.
        most: the largest with it.
        coarser: how many channels have fewer bits than asked for, so that no accumulator overflows.
    """

    integers: Tensor
    units: Tensor
    shifts: Tensor
    sums: Tensor
    most: int
    coarser: int

    def with_bias(self, bias: Tensor) -> int:
        """The largest accumulator with an integer bias ``[C]``."""
        return int((self.sums + bias.abs().double()).max())

    def floats(self, taken: float, axis: int | None) -> Tensor:
        """The weights that the integers stand for.

        Args:
            taken: unit of the layer's input.
            axis: of the output channels; None where all have one unit.
        """
        units = self.units / taken
        return self.integers.double() * _along(units, axis, self.integers.dim())


def whole_weights(
    weight: Tensor,
    bias: Tensor | None,
    axis: int | None,
    *,
    taken: float,
    given: float,
    most: int,
    bits: int,
) -> WholeWeights:
    """Weights as integers of some bits, and a shift for every channel.

    A channel's unit is ``given / taken`` times a power of two, so that its accumulators come to the
    result's unit by a shift. Of two such units the one with the smaller error is taken: the finer
    one cuts off the largest weights.

    Args:
        weight: floating point.
        bias: ``[C]``, or None.
        axis: of the output channels; None where all have one unit.
        taken: unit of the input's integers.
        given: unit of the result's.
        most: the input's largest integer.
        bits: of a weight, its sign among them.
    """
    rows = weight.double()
    rows = rows.reshape(1, -1) if axis is None else rows.movedim(axis, 0).flatten(1)
    added = torch.zeros(len(rows), dtype=torch.float64) if bias is None else bias.double().cpu()
    added = added.abs().max().expand(len(rows)) if axis is None else added.abs()
    top = 2 ** (bits - 1) - 1
    base = given / taken
    size = rows.abs().amax(1).clamp_min(1e-300)
    exact = torch.floor(torch.log2(base * top / size) + 1e-9).clamp(*_SHIFTS)
    finer = (exact + 1).clamp(*_SHIFTS)
    errors = [_error(rows, base * 2.0**-shift, top) for shift in (exact, finer)]
    shifts = torch.where(errors[1] < errors[0], finer, exact)
    shifts = torch.where(rows.abs().amax(1) > 0, shifts, torch.zeros_like(shifts))
    first = shifts.clone()
    while True:
        units = base * 2.0**-shifts
        whole = _rounded(rows, units, top)
        sums = _summed(whole, weight, axis) * most
        # A correction of the bias finds room, too.
        needed = sums + 1.25 * (added / (units * taken)).ceil() + 2.0**20
        over = needed > MOST
        if not bool(over.any()):
            break
        shifts = shifts - over.double()
    integers = whole.reshape(weight.shape) if axis is None else whole.reshape(
        weight.movedim(axis, 0).shape
    ).movedim(0, axis)  # fmt: skip
    return WholeWeights(
        integers.to(torch.int64),
        units * taken,
        shifts.to(torch.int64),
        sums,
        int((sums + (added / (units * taken)).ceil() + 1).max()),
        int((shifts < first).sum()),
    )


def _rounded(rows: Tensor, units: Tensor, top: int) -> Tensor:
    return torch.round(rows / units[:, None]).clamp(-top, top)


def _error(rows: Tensor, units: Tensor, top: int) -> Tensor:
    """Squared error of every row in these units."""
    return (_rounded(rows, units, top) * units[:, None] - rows).square().sum(1)


def _summed(whole: Tensor, weight: Tensor, axis: int | None) -> Tensor:
    """The sum of the sizes of the weights that meet in one accumulator, for every row."""
    sizes = whole.abs()
    if axis is not None or weight.dim() < 2:
        return sizes.sum(1)
    # Channels share one unit: the largest sum over the axis of the inputs and the kernel.
    return sizes.reshape(weight.shape).flatten(2).sum(-1).sum(0).max()[None]


def _along(values: Tensor, axis: int | None, rank: int) -> Tensor:
    """One number for each channel, along an axis of so many."""
    shape = [1] * rank
    if axis is not None:
        shape[axis] = -1
    return values.view(shape)
