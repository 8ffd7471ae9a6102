"""Counts and exact sums of millions of values in one pass over memory each, compiled."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from numba import njit

# A double's fraction, in two halves, so that 2^35 of them can't overflow an int64 sum.
_HALF = 27
_FRACTION = (1 << 52) - 1
# The exponent of the lowest bit of a double whose exponent field is 0.
_LOWEST = -1075


@njit(cache=True, nogil=True)
def _mantissa_sums(x, sums):  # type: ignore[no-untyped-def]
    """Sums of the mantissas' halves by exponent field, into ``sums [2, 2048]``."""
    for i in range(len(x)):
        bits = np.float64(x[i]).view(np.int64)
        field = (bits >> 52) & 2047
        whole = bits & _FRACTION
        if field > 0:
            whole |= 1 << 52
        else:
            field = np.int64(1)
        if bits < 0:
            sums[0, field] -= whole >> _HALF
            sums[1, field] -= whole & ((1 << _HALF) - 1)
        else:
            sums[0, field] += whole >> _HALF
            sums[1, field] += whole & ((1 << _HALF) - 1)


@njit(cache=True, nogil=True)
def _tally(x, worth, scale, again, first, counts, mass):  # type: ignore[no-untyped-def]
    weighted = len(worth) > 0
    for i in range(len(x)):
        cell = np.int64(np.floor(np.float64(x[i]) * scale * again)) - first
        counts[cell] += 1
        if weighted:
            mass[cell] += worth[i]


def exact_sum(x: npt.NDArray[np.floating]) -> Fraction:
    """Sum of finite values ``[n]``, float32 or float64, without rounding."""
    sums = np.zeros((2, 2048), np.int64)
    _mantissa_sums(x, sums)
    total = Fraction(0)
    for field in np.flatnonzero(sums.any(0)).tolist():
        whole = (int(sums[0, field]) << _HALF) + int(sums[1, field])
        total += whole * Fraction(2) ** (field + _LOWEST)
    return total


def dense_counts(
    x: npt.NDArray[np.floating],
    worth: npt.NDArray[np.floating] | None,
    level: int,
    low: float,
    high: float,
) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float64] | None]:
    """Values in each cell ``[i 2^level, (i + 1) 2^level)`` from the lowest to the highest.

    Args:
        x: finite values ``[n]``, float32 or float64.
        worth: summed in each cell beside the count ``[n]``.
        level: of the cells.
        low, high: the least and the greatest of x; together they must not span too many cells.

    Returns:
        The first cell's index, counts ``[cells]`` and, if asked for, sums of worth ``[cells]``.
    """
    # Two factors: the whole of either may overflow where the product of x and both doesn't.
    scale = 2.0 ** (-level // 2)
    again = 2.0 ** (-level - -level // 2)
    first, last = (int(np.floor(end * scale * again)) for end in (low, high))
    counts = np.zeros(last - first + 1, np.int64)
    mass = np.zeros(len(counts) if worth is not None else 0)
    weights = np.empty(0, np.float32) if worth is None else worth
    _tally(x, weights, scale, again, first, counts, mass)
    return first, counts, None if worth is None else mass
