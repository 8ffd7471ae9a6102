"""Tables that count in digits: starts for fits in which spikes have a price.

K steps are shared out among digits. A digit of m steps has m + 1 values and sends one spike at
most: its highest step that fires takes so much from the membrane potential that none of the
others does. One digit is a code of one spike, K digits are the binary table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from .problem import Array

# Below the range, where every input fires; the range is [0, 1].
_ALWAYS = -0.5
# What a step takes from the membrane potential so that no step of its digit fires any more.
_AWAY = 8.0
# The range of a table over that of the inputs.
_SPANS = (1.0, 0.8, 0.6, 0.4)
# More digits than this have one step each from there on.
_WIDE = 3


@cache
def divisions(steps: int) -> tuple[tuple[int, ...], ...]:
    """Ways to share K steps out among digits: the first digits wide, the rest of one step."""
    found = {(1,) * steps}

    def extend(begun: tuple[int, ...], left: int) -> None:
        found.add(begun + (1,) * left)
        if len(begun) < _WIDE:
            for size in range(1, left + 1):
                extend((*begun, size), left - size)

    extend((), steps)
    return tuple(sorted(found))


def counting(digits: Sequence[int], begin: float, span: float, silent: bool) -> Array:
    """T and h of equal levels from `begin` on, ``[2, K]``.

    Args:
        digits: steps of each.
        begin: input of the lowest level.
        span: from there to where another level would begin.
        silent: whether the lowest level is one without a spike; else one step always fires.
    """
    values = [size + 1 for size in digits]
    if not silent:
        values[0] -= 1
    unit = span / float(np.prod(values))
    half = 0.5 * unit
    T, h = [], []
    worth = span
    # A step that always fires would fire behind the others of its digit, too.
    away = 0.0 if silent else _AWAY
    for place, (size, count) in enumerate(zip(digits, values, strict=True)):
        worth /= count
        first = place == 0
        lowest = 0 if first and not silent else 1
        for value in range(lowest + size - 1, lowest - 1, -1):
            cut = begin + value * worth - half if value else _ALWAYS
            T.append(cut if first else cut - away)
            h.append(value * worth + away if first else value * worth)
    return np.array([T, h])


def single(edges: Array, measure: Array, steps: int, silent: bool) -> Array:
    """A code of one spike, its levels dense where a measure is, ``[2, K]``.

    Args:
        edges: of bins ``[B + 1]``.
        measure: how many levels each bin should have, up to a factor ``[B]``.
        steps: K.
        silent: as in `counting`.
    """
    levels = steps + silent
    total = np.concatenate([[0.0], np.cumsum(measure)])
    cuts = np.interp(np.arange(1, levels) / levels * total[-1], total, edges)
    T = cuts[::-1] if silent else np.append(cuts[::-1], _ALWAYS)
    return np.array([T, np.full(steps, _AWAY)])


def starts(
    data: Array, f: Array, steps: int, *, begin: float, reach: float, free: bool
) -> list[Array]:
    """Tables of K steps on [0, 1] to start from, each ``[2, K]``.

    Args:
        data: of `exact_error.Target`.
        f: function on the bins ``[B]``.
        steps: K.
        begin: where f leaves its first value.
        reach: from there to where it has its last.
        free: whether y0 may differ from 0; else tables in which a step always fires are tried, too.
    """
    p, width = np.diff(data[1]), np.diff(data[0])
    slopes = np.gradient(f, 0.5 * (data[0, :-1] + data[0, 1:])) if len(f) > 1 else np.zeros(1)
    measure = np.cbrt(p / width * slopes**2) * width
    found = []
    for silent in (True,) if free else (True, False):
        if silent or steps > 1:
            found += [
                counting(digits, begin, span * reach, silent)
                for digits in divisions(steps)
                for span in _SPANS
            ]
        if measure.sum() > 0:
            found.append(single(data[0], measure, steps, silent))
    return found
