"""Where a function jumps, to the last bit, and whether it is a staircase: constant in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .problem import Array, Stairs

Reals = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
# f at points [B], computed in their own type; float64 or float32 in and out.
Sampled = Callable[[Reals], Reals]

# A jump is at least this share of what f does between the two points where it is looked for.
_SHARE = 1 / 8
# Where f moves this many times more than between those points, it is a pole.
_POLE = 4.0
# A function of more jumps is as good as smooth.
_MOST = 1024
# Changes by less than this share of f's spread are rounding.
_ROUNDING = 1e-6
# Floats on either side among which a jump of the double function is found in float32.
_NEAR = 64
_EVEN = 4097
_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True, eq=False)
class Jumps:
    """What was found of a function on a range.

    Args:
        at: the last input before every jump, float64 ``[n]``, increasing.
        stairs: f as a staircase on wider ranges first, the range itself last; empty if it is none.
    """

    at: Array
    stairs: tuple[Stairs, ...] = ()


def find_jumps(f: Sampled, points: Array, dtype: npt.DTypeLike) -> Jumps:
    """The jumps of a function between the lowest and the highest of some points.

    Args:
        f: the function.
        points: where f is looked at, float64 ``[B]``; a jump and back between two of them is
            not seen.
        dtype: of the inputs that f will have, float32 or float64.
    """
    low, high = float(points.min()), float(points.max())
    inner = np.unique(np.append(points, np.linspace(low, high, _EVEN)))
    at = _located(f, inner, np.dtype(dtype))
    if at is None:
        return Jumps(np.empty(0))
    own = _stairs(f, inner, at, np.dtype(dtype))
    if own is None:
        return Jumps(at)
    found = (_wider(f, inner, more, np.dtype(dtype)) for more in _ranges(low, high))
    return Jumps(at, (*(stairs for stairs in found if stairs is not None), own))


def _ranges(low: float, high: float) -> Iterator[Array]:
    """Points of all magnitudes, then those of three times the range."""
    sizes = np.ldexp(1 + np.arange(4) / 4, np.arange(-149, 126)[:, None]).ravel()
    yield np.concatenate([-sizes, [0.0], sizes])
    yield np.linspace(2 * low - high, 2 * high - low, _EVEN)


def _wider(f: Sampled, inner: Array, more: Array, dtype: np.dtype) -> Stairs | None:
    points = np.unique(np.append(inner, more))
    at = _located(f, points, dtype)
    return None if at is None else _stairs(f, points, at, dtype)


def _located(f: Sampled, points: Array, dtype: np.dtype) -> Array | None:
    """The last input before every jump; None for a function of too many."""
    pairs = _adjacent(f, points)
    if pairs is None:
        return None
    before, size = pairs
    if dtype == np.float64 or not len(before):
        return before
    places = _ordered(before.astype(np.float32))
    near = np.arange(-_NEAR, _NEAR + 1)
    limit = int(_ordered(np.array([_LARGEST], np.float32))[0])
    around, inverse = np.unique(np.clip(places[:, None] + near, -limit, limit), return_index=True)
    least = 0.5 * np.repeat(size, len(near))[inverse]
    values = f(_floats(around, dtype)).astype(np.float64)
    with np.errstate(invalid="ignore"):
        moved = np.abs(np.diff(values)) >= np.minimum(least[1:], least[:-1])
    found = around[:-1][moved & (np.diff(around) == 1)]
    return np.asarray(_floats(found, dtype), np.float64)


def _adjacent(f: Sampled, points: Array) -> tuple[Array, Array] | None:
    """Doubles before every jump of the double function, and its sizes; None if there are many."""
    values = f(points)
    finite = np.isfinite(values)
    values, places = values[finite], _ordered(points[finite])
    if len(values) < 2:
        return np.empty(0), np.empty(0)
    a, b, low, high = places[:-1], places[1:], values[:-1], values[1:]
    first = np.abs(high - low)
    least = np.maximum(_SHARE * first, _ROUNDING * 1e-3 * np.ptp(values))
    open_ = first > least
    # A smooth function's change halves with the distance: few intervals are left after four turns.
    while (b[open_] > a[open_] + 1).any():
        a, b, first, least = a[open_], b[open_], first[open_], least[open_]
        low, high = low[open_], high[open_]
        middle = (a >> 1) + (b >> 1) + (a & b & 1)
        between = f(_floats(middle, np.dtype(np.float64)))
        a, b = np.append(a, middle), np.append(middle, b)
        low, high = np.append(low, between), np.append(between, high)
        first, least = np.append(first, first), np.append(least, least)
        with np.errstate(invalid="ignore"):
            open_ = (np.abs(high - low) > least) & (b > a)
        if open_.sum() > max(_MOST, 16 * len(places)):
            return None
    size = np.abs(high - low)
    with np.errstate(invalid="ignore"):
        kept = open_ & (size < _POLE * first)
    if kept.sum() > _MOST:
        return None
    order = np.argsort(a[kept])
    return np.asarray(_floats(a[kept][order], np.dtype(np.float64))), size[kept][order]


def _stairs(f: Sampled, points: Array, at: Array, dtype: np.dtype) -> Stairs | None:
    """The levels between jumps, in f's own arithmetic; None where f isn't constant there."""
    before = at.astype(dtype)
    x = np.concatenate([points.astype(dtype), before, np.nextafter(before, dtype.type(np.inf))])
    values, place = f(x).astype(np.float64), np.searchsorted(before, x, side="left")
    if not np.isfinite(values).all():
        return None
    lowest, highest = np.full(len(at) + 1, np.inf), np.full(len(at) + 1, -np.inf)
    np.minimum.at(lowest, place, values)
    np.maximum.at(highest, place, values)
    if (highest - lowest > _ROUNDING * np.ptp(values)).any():
        return None
    return Stairs(at, 0.5 * (lowest + highest))


def _ordered(x: Reals) -> Ints:
    """Floats as whole numbers in the same order, neighbours one apart; both zeros are 0."""
    kind = np.int32 if x.dtype == np.float32 else np.int64
    bits = np.abs(x).view(kind).astype(np.int64)
    return np.where(x < 0, -bits, bits)


def _floats(places: Ints, dtype: np.dtype) -> Reals:
    """The floats of these places in their order."""
    kind = np.int32 if dtype == np.float32 else np.int64
    sizes = np.abs(places).astype(kind).view(dtype)
    return np.where(places < 0, -sizes, sizes)
