"""Recognises a ramp: a function that is a line between two flats, as ReLU or a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .problem import Array, Problem

# Relative size below which a change of slope is rounding.
_STRAIGHT = 1e-6


@dataclass(frozen=True)
class Ramp:
    """f(x) = base + slope * clip(x - begin, 0, length)."""

    begin: float
    length: float
    slope: float
    base: float

    def __call__(self, x: Array) -> Array:
        """The ramp's values."""
        return self.base + self.slope * np.clip(x - self.begin, 0.0, self.length)


def ramp_of(problem: Problem) -> Ramp | None:
    """The one ramp that a problem's function is, flat before and after; None if it isn't one."""
    used = problem.weights > 0
    x, f = problem.centres[used], problem.values[used]
    spread = float(np.ptp(f))
    if spread == 0 or len(x) < 3 or len(problem.jumps):
        return None
    slopes = np.diff(f) / np.diff(x)
    steep = np.abs(slopes) > 1e-9 * spread / (x[-1] - x[0])
    moving = np.flatnonzero(steep)
    # Where a kink lies inside a bin, the two pieces beside it aren't on the line.
    inner = slopes[moving[0] + 1 : moving[-1]] if len(moving) > 3 else slopes[moving]
    slope = float(np.median(inner))
    if slope == 0:
        return None  # several jumps with flats between them
    at = int(moving[len(moving) // 2])
    offset = float(f[at] - slope * x[at])
    flat_before, flat_after = float(f[0]), float(f[-1])
    # Beside one flat bin alone, the line to the next is less steep than the ramp.
    flatter = np.abs(slopes[[0, -1]]) < (1 - _STRAIGHT) * abs(slope)
    foot, top = moving[0] > 0 or flatter[0], moving[-1] < len(slopes) - 1 or flatter[1]
    begin = (flat_before - offset) / slope if foot else problem.low
    end = (flat_after - offset) / slope if top else problem.high
    ramp = Ramp(begin, end - begin, slope, slope * begin + offset)
    allowed = np.full(len(x), _STRAIGHT * spread)
    for kink in (begin, end):
        # Elsewhere bins may be far wider: where few values lie, or none.
        width = _width_at(x, kink)
        allowed[np.abs(x - kink) <= width] += abs(slope) * width
    return ramp if bool((np.abs(ramp(x) - f) <= allowed).all()) else None


def _width_at(x: Array, place: float) -> float:
    """The widest step between the points around a place."""
    at = int(np.searchsorted(x, place))
    return float(np.max(np.diff(x[max(at - 2, 0) : at + 2]), initial=0.0))


def at_zero(problem: Problem, ramp: Ramp) -> bool:
    """Whether a ramp's foot is at 0 to within the bin that holds it."""
    width = float(problem.edges[1] - problem.edges[0])
    used = problem.values[problem.weights > 0]
    return abs(ramp.base) <= 2 * abs(ramp.slope) * width + 1e-6 * float(np.ptp(used))
