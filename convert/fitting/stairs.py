"""The neuron of a staircase: one step for every jump, or one for every bit where jumps are even."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .problem import Array, Problem, Solution, Stairs, Start

# Below every potential, and finite in float32 after a neuron's thresholds are stretched: a step
# that always fires.
LOWEST = -(2.0**120)
# What counts as even, and as equal levels, as a share of the staircase's height or length.
_EXACT = 1e-6
# Each reset rounds once.
_ROUNDED = 8


def exact(problem: Problem) -> Solution | None:
    """A neuron that gives the staircase itself, on the widest range for which K steps suffice.

    Few steps for many jumps may miss one by rounding: of an input within some floats of it.
    None where the function is no staircase, or has too many jumps.
    """
    for stairs in problem.stairs:
        if not len(stairs.jumps):
            continue
        for found in (
            _by_bits(stairs, problem, 0),
            _by_jumps(stairs, problem),
            _by_bits(stairs, problem, _ROUNDED),
        ):
            if found is not None:
                return found
    return None


def nearest(problem: Problem, other: Solution) -> Solution:
    """The best of one step a jump, with as many jumps as there are steps, if better than another.

    Args:
        problem: of a function that may be a staircase.
        other: what a method found.
    """
    if not problem.stairs:
        return other
    stairs = problem.stairs[-1]
    fewer = _merged(stairs, problem)
    found = None if fewer is None else _by_jumps(fewer, problem)
    if found is None:
        return other
    used = problem.weights > 0
    x, f, w = problem.centres[used], problem.values[used], problem.weights[used]
    errors = [float(w @ (solution(x) - f) ** 2) / float(w.sum()) for solution in (found, other)]
    # Where both are as good, jumps are exact and thresholds that were searched are near them.
    if errors[0] > errors[1] + _EXACT * problem.variance:
        return other
    return replace(found, mse=errors[0])


def _by_jumps(stairs: Stairs, problem: Problem) -> Solution | None:
    """One step for each jump, without resets: every jump below x adds what f does there."""
    T, offset, levels = _based(stairs, problem)
    if len(T) > problem.steps:
        return None
    d, y = [], np.float32(offset)
    for level in levels:
        # In the neuron's own arithmetic, so that no rounding adds up.
        d.append(float(np.float32(level - float(y))))
        y = np.float32(y + np.float32(d[-1]))
    return _padded(problem, T, np.zeros(len(T)), np.array(d), offset)


def _by_bits(stairs: Stairs, problem: Problem, missed: int) -> Solution | None:
    """A step for each bit of the number of jumps below x; None where that isn't exact.

    Args:
        stairs: the function.
        problem: with K, and whether y0 is free.
        missed: roundings of the largest input by which a jump may be missed.
    """
    n = len(stairs.jumps)
    spent = int(not problem.offset and stairs.levels[0] != 0)
    sizes: list[int] = []
    left = n
    while left:
        sizes.append((left + 1) // 2)
        left //= 2
    if n < 3 or len(sizes) + spent > problem.steps:
        return None
    gap = (stairs.jumps[-1] - stairs.jumps[0]) / (n - 1)
    rise = (stairs.levels[-1] - stairs.levels[0]) / n
    T = np.array([stairs.jumps[0] + (size - 1) * gap for size in sizes])
    h, d = gap * np.array(sizes), rise * np.array(sizes)
    offset = float(stairs.levels[0])
    if spent:
        T, h, d = np.append(LOWEST, T), np.append(0.0, h), np.append(offset, d)
        offset = 0.0
    found = _padded(problem, T, h, d, offset)
    size = np.float32(np.abs(stairs.jumps).max())
    slack = np.float32(missed) * np.spacing(size)
    before = stairs.jumps.astype(np.float32)
    x = np.concatenate([before - slack, np.nextafter(before, np.float32(np.inf)) + slack])
    wanted = np.concatenate([stairs.levels[:-1], stairs.levels[1:]])
    height = float(np.ptp(stairs.levels))
    return found if (np.abs(_in_float32(found, x) - wanted) <= _EXACT * height).all() else None


def _in_float32(solution: Solution, x: np.ndarray) -> Array:
    """What the neuron gives for float32 inputs ``[B]``."""
    v, y = x.copy(), np.full(len(x), solution.offset, np.float32)
    parts = (solution.thresholds, solution.resets, solution.weights)
    for T, h, d in zip(*(part.astype(np.float32) for part in parts), strict=True):
        fires = v > T
        y, v = y + d * fires, v - h * fires
    return y.astype(np.float64)


def _based(stairs: Stairs, problem: Problem) -> tuple[Array, float, Array]:
    """Thresholds, y0, and the level after each; a step that always fires where y0 must be 0."""
    first = float(stairs.levels[0])
    if problem.offset or first == 0:
        return stairs.jumps, first, stairs.levels[1:]
    return np.append(LOWEST, stairs.jumps), 0.0, stairs.levels


def _padded(problem: Problem, T: Array, h: Array, d: Array, offset: float) -> Solution:
    """A solution of K steps, of which those that are left over never fire."""
    rest = problem.steps - len(T)
    above = np.full(rest, -LOWEST)
    none = np.zeros(rest)
    return Solution(
        np.append(T, above), np.append(h, none), np.append(d, none), offset, 0.0, Start.STAIRS
    )


def _merged(stairs: Stairs, problem: Problem) -> Stairs | None:
    """The staircase of as many jumps as fit that is nearest to this one."""
    silent = not problem.offset and stairs.levels[0] == 0
    kept = problem.steps - int(not problem.offset and not silent)
    if kept < 1:
        return None
    used = problem.weights > 0
    place = np.searchsorted(stairs.jumps, problem.centres[used], side="left")
    n = len(stairs.jumps)
    w = np.bincount(place, problem.weights[used], n + 1)
    kept = min(kept, n)
    total, first, second = (
        np.append(0.0, np.cumsum(w * stairs.levels**power)) for power in (0, 1, 2)
    )

    def loss(begins: npt.NDArray[np.int64], end: int) -> Array:
        """Squared error of one level for the segments from each of `begins` to before `end`."""
        mass, mean = total[end] - total[begins], first[end] - first[begins]
        with np.errstate(invalid="ignore", divide="ignore"):
            error = second[end] - second[begins]
            error -= np.where((mass > 0) & ~(silent & (begins == 0)), mean**2 / mass, 0.0)
        return np.maximum(error, 0.0)

    best = np.array([loss(np.array([0]), end)[0] for end in range(1, n + 2)])
    cuts = []
    for _ in range(kept):
        new, where = best.copy(), np.zeros(n + 1, np.int64)
        for end in range(2, n + 2):
            begins = np.arange(1, end)
            costs = best[begins - 1] + loss(begins, end)
            i = int(np.argmin(costs))
            new[end - 1], where[end - 1] = costs[i], begins[i]
        best = new
        cuts.append(where)
    ends, end = [n + 1], n + 1
    for where in reversed(cuts):
        end = int(where[end - 1])
        if end < 1:
            break
        ends.append(end)
    ends = sorted({0, *ends})
    levels = [
        float((first[b] - first[a]) / (total[b] - total[a]))
        if total[b] > total[a]
        else float(stairs.levels[a])
        for a, b in pairwise(ends)
    ]
    if silent:
        levels[0] = 0.0
    return Stairs(stairs.jumps[np.array(ends[1:-1], np.int64) - 1], np.array(levels))
