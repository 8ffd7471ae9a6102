"""TBPI: tendency-based parameter initialisation, in the paper's three stages.

Jeong et al. 2024, arXiv 2409.00044. (1) T, h and d are trained by gradient from random values;
(2) each of the three is fitted over t by a trend; (3) the trend's values are trained again.
`solve_random` is what the paper compares it with: the same training from random values.

Sites of one network share what is learned about their function. What they learn for one K depends
on no other K that is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt

from .parallel import run_all
from .problem import Array, Problem, Solution, Start
from .surrogate_training import BLOCK, train

Floats32 = npt.NDArray[np.float32]

# The paper's domain, and the range of swish on it: there the surrogate's triangle has width 1.
_LOW, _HIGH, _RANGE = -8.0, 12.0, 12.28
# What lies further out than all but this share of the inputs doesn't set the scale.
_TAIL = 1e-4
_POINTS = 1024
_EPOCHS_FIRST, _EPOCHS_THIRD = 10_000, 20_000
_STARTS = {"normal": 24, "high": 240}
# Of a network's sites, each is trained from a few initial values: its function's best trends.
_TRENDS_PER_SITE = 2


@dataclass(frozen=True)
class Mapped:
    """A problem in the paper's units, on points for the gradient.

    x' = (x - low) * stretch - 8 and f' = f * gain.
    """

    x: Floats32
    f: Floats32
    w: Floats32
    low: float
    stretch: float
    gain: float

    def back(self, parameters: Array) -> Array:
        """T, h, d ``[3, K]`` from the paper's units to the problem's."""
        T, h, d = parameters
        return np.stack([(T - _LOW) / self.stretch + self.low, h / self.stretch, d / self.gain])


def mapped(problem: Problem, points: int = _POINTS) -> Mapped:
    """The problem on `points` cells of the paper's domain, weights summing to 1."""
    used = problem.weights > 0
    x, f, w = problem.centres[used], problem.values[used], problem.weights[used]
    cumulative = np.cumsum(w) / w.sum()
    first = int(np.searchsorted(cumulative, _TAIL))
    last = min(int(np.searchsorted(cumulative, 1 - _TAIL)), len(x) - 1)
    halves = 0.5 * (problem.edges[1:] - problem.edges[:-1])[used]
    low, high = x[first] - halves[first], x[last] + halves[last]
    stretch = (_HIGH - _LOW) / (high - low)
    spread = max(f.max(), 0.0) - min(f.min(), 0.0)
    gain = _RANGE / spread if spread else 1.0
    u = (x - low) * stretch + _LOW
    # Equal cells between the tails; what lies beyond keeps to its own end cell.
    cell = np.clip(((u - _LOW) / (_HIGH - _LOW) * points + 1e-9).astype(np.int64), 0, points - 1)
    mass = np.bincount(cell, w, points)
    safe = np.where(mass > 0, mass, 1.0)
    xs, fs = (np.bincount(cell, w * values, points) / safe for values in (u, f * gain))
    # A coarser grid than float32's takes the rounding of the mapping out of what follows.
    xs, fs = (np.round(values * 2**16) / 2**16 for values in (xs, fs))
    padded = -points % BLOCK
    grid = [np.pad(a, (0, padded)).astype(np.float32) for a in (xs, fs, mass / mass.sum())]
    return Mapped(grid[0], grid[1], grid[2], float(low), float(stretch), float(gain))


def loss(parameters: Array, problem: Problem) -> float:
    """Mean squared error of T, h, d ``[3, K]`` on the problem's bins."""
    solution = Solution(parameters[0], parameters[1], parameters[2], 0.0, 0.0, Start.TBPI)
    used = problem.weights > 0
    w = problem.weights[used]
    error = solution(problem.centres[used]) - problem.values[used]
    return float(w @ error**2 / w.sum())


def random_start(steps: int, seed: int, index: int) -> Array:
    """T from N(0, 1), h and d from |N(0, 1)|: ``[3, K]`` in the paper's units."""
    drawn = np.random.default_rng((seed, steps, index)).standard_normal((3, steps))
    drawn[1:] = np.abs(drawn[1:])
    return drawn


def trends(parameters: Array) -> list[Array]:
    """Stage 2: every choice of logarithm or parabola over t for each of T, h, d ``[3, K]``."""
    steps = parameters.shape[1]
    t = np.arange(1, steps + 1, dtype=np.float64)
    forms = [np.stack([np.ones(steps), np.log(t)], 1), np.stack([np.ones(steps), t, t * t], 1)]
    fitted = [
        [form @ np.linalg.lstsq(form, row, rcond=None)[0] for form in forms] for row in parameters
    ]
    return [
        np.stack([fitted[i][c] for i, c in enumerate(choice)])
        for choice in product((0, 1), repeat=3)
    ]


def learn(problem: Problem, seed: int, index: int) -> tuple[Array, Array]:
    """Stages 1 and 2 from one random start: trained and trend's parameters, paper's units."""
    points = mapped(problem)
    start = random_start(problem.steps, seed, index)
    trained, _ = train(points.x, points.f, points.w, start, _EPOCHS_FIRST, 1e-3, 1e-3, 1.0)
    best = min(trends(trained), key=lambda p: loss(points.back(p), problem))
    return trained, best


def finish(problem: Problem, initial: Array, start: Start = Start.TBPI) -> Solution:
    """Stage 3 from one trend, or other values; never worse than those themselves."""
    points = mapped(problem)
    trained, _ = train(points.x, points.f, points.w, initial, _EPOCHS_THIRD, 1e-2, 1e-5, 0.5)
    before, after = points.back(initial), points.back(trained)
    at_first, at_end = loss(before, problem), loss(after, problem)
    best, mse = (after, at_end) if at_end <= at_first else (before, at_first)
    stages = {"trend" if start is Start.TBPI else "random": at_first, "trained": at_end}
    return Solution(best[0], best[1], best[2], 0.0, mse, start, stages)


def site_numbers(problems: Sequence[Problem]) -> list[int]:
    """For each problem the number of its site, in the order in which the sites first appear.

    A site's problems have one name and different K. Of problems that share name and K, each
    belongs to another site.
    """
    numbers: dict[tuple[str, int], int] = {}
    alike: dict[tuple[str, int], int] = defaultdict(int)
    result = []
    for problem in problems:
        number = alike[problem.name, problem.steps]
        alike[problem.name, problem.steps] += 1
        result.append(numbers.setdefault((problem.name, number), len(numbers)))
    return result


def _learners(problems: Sequence[Problem]) -> dict[tuple[str, int], list[Problem]]:
    """For each function and K that is asked for, a problem of that K for each site.

    Sites that ask for another K take part, so that it doesn't matter which K the others have.
    """
    asked: dict[str, dict[int, dict[int, Problem]]] = defaultdict(lambda: defaultdict(dict))
    for problem, site in zip(problems, site_numbers(problems), strict=True):
        asked[problem.function][site][problem.steps] = problem
    return {
        (function, k): [
            by_k[k] if k in by_k else replace(by_k[min(by_k)], steps=k) for by_k in sites.values()
        ]
        for function, sites in asked.items()
        for k in sorted({k for by_k in sites.values() for k in by_k})
    }


def initial_values(
    problems: Sequence[Problem], *, seed: int, effort: str = "normal", progress: bool = False
) -> list[list[Array]]:
    """Stages 1 and 2: for each problem the trends of its function and K, best first.

    A tendency is learned once for each function and number of steps: every random start is
    trained on another of the sites that share the function.

    Returns:
        For each problem, T, h, d ``[3, K]`` in the paper's units.
    """
    tasks: list[Callable[[], tuple[Array, Array]]] = []
    keys: list[tuple[str, int]] = []
    for key, members in _learners(problems).items():
        for index in range(_STARTS[effort]):
            tasks.append(partial(learn, members[index % len(members)], seed, index))
            keys.append(key)
    found: dict[tuple[str, int], list[Array]] = defaultdict(list)
    for key, (_, trend) in zip(keys, run_all(tasks, "tendencies", progress), strict=True):
        found[key].append(trend)
    result = []
    for problem in problems:
        points = mapped(problem)
        losses = [loss(points.back(p), problem) for p in found[problem.function, problem.steps]]
        order = np.argsort(losses, kind="stable")
        result.append([found[problem.function, problem.steps][i] for i in order])
    return result


def solve(
    problems: Sequence[Problem],
    *,
    seed: int = 0,
    effort: str = "normal",
    shared: bool = False,
    progress: bool = False,
) -> list[Solution]:
    """All three stages for every problem.

    Args:
        problems: what to fit; problems of one function and K share their tendencies.
        seed: of the random starts.
        effort: ``"high"`` takes ten times the starts.
        shared: the problems are a network's sites: the best two trends of each are trained again,
            not all.
        progress: shows a bar on stderr.
    """
    starts = initial_values(problems, seed=seed, effort=effort, progress=progress)
    count = _finished(shared, effort)
    tasks: list[list[Callable[[], Solution]]] = [
        [partial(finish, problem, trend) for trend in trend_list[:count]]
        for problem, trend_list in zip(problems, starts, strict=True)
    ]
    return _best(tasks, progress)


def solve_random(
    problems: Sequence[Problem],
    *,
    seed: int = 0,
    effort: str = "normal",
    shared: bool = False,
    progress: bool = False,
    best: bool = False,
) -> list[Solution]:
    """Stages 1 and 3 without a tendency: every problem is trained from random values of its own.

    Args:
        problems, seed, shared, progress: as for `solve`.
        effort: with `best`, as for `solve`; one start is one start.
        best: False for one start a problem. True for the best of as many as `solve` takes to stage
            3, which is about the work of `solve`: two for each site of a network.
    """
    count = _finished(shared, effort) if best else 1
    tasks: list[list[Callable[[], Solution]]] = [
        [partial(untrended, problem, seed, site * count + start) for start in range(count)]
        for problem, site in zip(problems, site_numbers(problems), strict=True)
    ]
    return _best(tasks, progress)


def untrended(problem: Problem, seed: int, index: int) -> Solution:
    """Stage 1 from a random start, and stage 3 from where it ends."""
    trained, _ = learn(problem, seed, index)
    return finish(problem, trained, Start.RANDOM)


def _finished(shared: bool, effort: str) -> int:
    """How many initial values of a problem go through stage 3."""
    return _TRENDS_PER_SITE if shared else _STARTS[effort]


def _best(tasks: list[list[Callable[[], Solution]]], progress: bool) -> list[Solution]:
    """The best of several fits of each problem."""
    found = iter(run_all([task for each in tasks for task in each], "fit", progress))
    return [min((next(found) for _ in each), key=lambda s: s.mse) for each in tasks]
