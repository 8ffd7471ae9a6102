"""The binary table T = h = d = alpha 2^-t: a K-bit quantiser of one linear ramp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from .parallel import run_all
from .problem import Array, Problem, Solution, Start
from .ramp import Ramp, at_zero, ramp_of

# Bins wider than this share of a level are too coarse to be seen as points at their centres.
_COARSE = 0.25


def table(ramp: Ramp, alpha: float, steps: int) -> tuple[Array, Array, Array]:
    """T, h, d of the quantiser with 2^K levels up to `alpha`, centred by half a level."""
    h = alpha * 2.0 ** -np.arange(1.0, steps + 1)
    return ramp.begin + h - 0.5 * h[-1], h, np.asarray(ramp.slope * h)


def solve_one(problem: Problem) -> Solution | None:
    """The binary table with the least-error alpha; None where f is not one ramp.

    A ramp that is already steep at the range's lower end may be cut there too. Where y0 must be 0
    and the ramp doesn't begin at 0, its first step fires always and stands for the constant.
    """
    ramp = ramp_of(problem)
    if ramp is None:
        return None
    used = problem.weights > 0
    x, f, w = problem.centres[used], problem.values[used], problem.weights[used]
    w = w / w.sum()
    width = float(np.median(np.diff(problem.edges)[used]))
    coarse = width > _COARSE * ramp.length / 2**problem.steps
    rising = (x > ramp.begin) & (x < ramp.begin + ramp.length)
    constant = not at_zero(problem, ramp)
    spent = int(constant and not problem.offset)
    if spent and problem.steps == 1:
        return _with_constant_step(problem, _silent(problem, float(w @ f)), x, f, w)
    top = 2 ** (problem.steps - spent) - 1
    # Beyond the ramp's end levels may lie too high, and there x may be as large as it likes.
    end = ramp.begin + ramp.length
    ends, reached = end < x[-1], np.where(x > end, np.inf, x)

    def foot(begin: float) -> float:
        return float(ramp(np.asarray(begin))) if constant else 0.0

    def error(begin: float, alpha: float) -> float:
        level = alpha / (top + 1)
        if coarse:
            # Levels could be in step with the bins' centres: their own error is a level's.
            if ends:
                out = f - foot(begin) - ramp.slope * np.clip(reached - begin, 0, level * top)
            else:
                out = f - np.clip(f, *sorted((foot(begin), foot(begin) + ramp.slope * level * top)))
            return float(w @ (out**2 + rising * (ramp.slope * level) ** 2 / 12))
        code = np.clip(np.ceil((reached - begin) / level - 0.5), 0, top)
        return float(w @ (foot(begin) + ramp.slope * level * code - f) ** 2)

    reach = min(ramp.length, problem.high - ramp.begin)
    low, high = 0.02 * reach, 1.1 * reach * (top + 1) / top
    begin = ramp.begin
    if constant and ramp.begin <= problem.low:
        begin, alpha = _both_ends(error, begin, reach, (top + 1) / top)
        low, high = 0.9 * alpha, 1.1 * alpha
    for _ in range(3):
        grid = np.geomspace(low, high, 160)
        losses = [error(begin, alpha) for alpha in grid]
        best = int(np.argmin(losses))
        low, high = grid[max(best - 2, 0)], grid[min(best + 2, len(grid) - 1)]
    # Where f is flat above the ramp, levels that end with it are best by far, and missed by a grid.
    ending = (ramp.begin + ramp.length - begin) * (top + 1) / top
    alpha = min((float(grid[best]), ending), key=lambda alpha: error(begin, alpha))
    cut = Ramp(begin, ramp.length, ramp.slope, foot(begin))
    T, h, d = table(cut, alpha, problem.steps - spent)
    solution = Solution(T, h, d, cut.base, 0.0, Start.BINARY)
    if spent:
        return _with_constant_step(problem, solution, x, f, w)
    mse = float(w @ (solution(x) - f) ** 2)
    return Solution(T, h, d, cut.base, mse, Start.BINARY)


def _both_ends(
    error: Callable[[float, float], float], begin: float, reach: float, over: float
) -> tuple[float, float]:
    """Begin and alpha of least error, both searched from the whole range inwards."""
    cuts, shares = (0.0, 0.48), (0.04, 1.05)
    for _ in range(4):
        grid = [
            (begin + cut * reach, share * (1 - cut) * reach * over)
            for cut in np.linspace(*cuts, 13)
            for share in np.linspace(*shares, 13)
        ]
        best = int(np.argmin([error(*point) for point in grid]))
        cut, share = np.linspace(*cuts, 13)[best // 13], np.linspace(*shares, 13)[best % 13]
        width, height = (cuts[1] - cuts[0]) / 6, (shares[1] - shares[0]) / 6
        cuts, shares = (max(cut - width, 0.0), cut + width), (share - height, share + height)
    return grid[best]


def _silent(problem: Problem, value: float) -> Solution:
    """No steps, one value."""
    none = np.empty(0)
    return Solution(none, none, none, value, 0.0, Start.BINARY)


def _with_constant_step(
    problem: Problem, solution: Solution, x: Array, f: Array, w: Array
) -> Solution:
    """The same output without y0: a first step that always fires stands for it."""
    below = problem.low - (problem.high - problem.low)
    T = np.concatenate([[below], solution.thresholds])
    h = np.concatenate([[0.0], solution.resets])
    d = np.concatenate([[solution.offset], solution.weights])
    whole = Solution(T, h, d, 0.0, 0.0, Start.BINARY)
    return Solution(T, h, d, 0.0, float(w @ (whole(x) - f) ** 2), Start.BINARY)


def solve_line(problem: Problem) -> Solution:
    """The binary table of a curved function: the quantised ramp that comes nearest to it.

    Begin and alpha are searched, slope and base follow by least squares. A baseline: what the
    table of a ReLU network does to a function with a curve in it.
    """
    used = problem.weights > 0
    x, f, w = problem.centres[used], problem.values[used], problem.weights[used]
    w = w / w.sum()
    top = 2**problem.steps - 1

    def fitted(begin: float, alpha: float) -> tuple[float, float, float]:
        code = np.clip(np.ceil((x - begin) / (alpha / (top + 1)) - 0.5), 0, top)
        centred = code - w @ code if problem.offset else code
        power = w @ centred**2
        slope = float(w @ (centred * f) / power) if power > 0 else 0.0
        base = float(w @ f - slope * (w @ code)) if problem.offset else 0.0
        return float(w @ (base + slope * code - f) ** 2), slope * (top + 1) / alpha, base

    span = problem.high - problem.low
    begins, alphas = (problem.low, problem.high - 0.02 * span), (0.02 * span, 1.1 * span)
    for _ in range(4):
        grid = [(b, a) for b in np.linspace(*begins, 24) for a in np.geomspace(*alphas, 24)]
        begin, alpha = grid[int(np.argmin([fitted(*point)[0] for point in grid]))]
        step, ratio = (begins[1] - begins[0]) / 23, (alphas[1] / alphas[0]) ** (1 / 23)
        begins, alphas = (begin - step, begin + step), (alpha / ratio, alpha * ratio)
    _, slope, base = fitted(begin, alpha)
    T, h, d = table(Ramp(begin, alpha, slope, base), alpha, problem.steps)
    mse = float(w @ (Solution(T, h, d, base, 0.0, Start.BINARY)(x) - f) ** 2)
    return Solution(T, h, d, base, mse, Start.BINARY)


def solve(
    problems: Sequence[Problem],
    *,
    seed: int = 0,
    effort: str = "normal",
    shared: bool = False,
    progress: bool = False,
) -> list[Solution]:
    """The binary table of every problem: exact for one ramp, else the nearest quantised ramp.

    There is nothing random in it and nothing to spend more work on: only `problems` and
    `progress` count.
    """
    tasks = [partial(_solve, problem) for problem in problems]
    return run_all(tasks, "fit", progress)


def _solve(problem: Problem) -> Solution:
    return solve_one(problem) or solve_line(problem)
