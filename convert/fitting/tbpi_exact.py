"""TBPI's initial values with an exact refinement in place of its third stage.

Stages 1 and 2 are the paper's (`tbpi.initial_values`). Stage 3 descends the exact error
(`exact_error`, `newton`); tables grown step by step (`growth`, `grow`) and the binary table
compete, and `Solution.start` says which won.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from . import library, tbpi
from .exact_error import scratch
from .growth import Effort, Growth
from .newton import descend
from .parallel import run_all
from .problem import Array, Problem, Solution
from .ramp import ramp_of
from .scaled import Scaled

_ALONE = {
    "normal": Effort(4, 100, 300, 3, 60, 16, None),
    "high": Effort(8, 500, 300, 3, 60, 24, None),
}
_SHARED = {
    "normal": Effort(1, 60, 150, 2, 40, 8, 2),
    "high": Effort(2, 300, 300, 3, 60, 16, 2),
}

# Iterations of a table's descent after its interval moved.
_REFINED = 20

_Key = tuple[str, str, bool, float, tuple[bytes, ...]]


def solve(
    problems: Sequence[Problem],
    *,
    seed: int = 0,
    effort: str = "normal",
    shared: bool = False,
    progress: bool = False,
    entries: Sequence[library.Entry] | None = None,
) -> list[Solution]:
    """Fits every problem; those of one site, function and distribution share one growth.

    Args:
        problems: what to fit.
        seed: of the random starts and of the search.
        effort: ``"high"`` takes about ten times the work.
        shared: the problems are a network's sites, and each gets less work than a function that
            is fitted alone.
        progress: shows a bar on stderr.
        entries: solutions to start from, those of the package unless given.
    """
    begin = time.perf_counter()
    curved = [i for i, problem in enumerate(problems) if ramp_of(problem) is None]
    # A ramp has a better start.
    known = library.shipped() if entries is None and curved else entries or ()
    groups: dict[_Key, list[int]] = defaultdict(list)
    for i, problem in enumerate(problems):
        groups[_key(problem)].append(i)
    given = _initial_values(problems, curved, seed, progress)
    work = (_SHARED if shared else _ALONE)[effort]
    growths = [
        Growth([problems[i] for i in members], [given[i] for i in members], work, seed, known)
        for members in groups.values()
    ]
    deepest = max(growth.most for growth in growths)
    # A group's next step needs the last one of all its islands.
    for k in range(1, deepest + 1):
        active = [(growth, growth.tasks(k)) for growth in growths if k <= growth.most]
        tasks = [task for _, own in active for task in own]
        done = iter(run_all(tasks, f"fit, step {k} of {deepest}", progress))
        for growth, own in active:
            growth.merge(k, [next(done) for _ in own])
            growth.seconds[k] = time.perf_counter() - begin
    result: dict[int, Solution] = {}
    for growth, members in zip(growths, groups.values(), strict=True):
        result |= dict(zip(members, growth.solutions(), strict=True))
    return [result[i] for i in range(len(problems))]


def refine(problem: Problem, solution: Solution) -> Solution:
    """A table, descended on a problem that differs a little from its own.

    Args:
        problem: what the table is for now.
        solution: one table.
    """
    scaled = Scaled.of(problem)
    T, h = scaled.into(solution.thresholds, solution.resets)
    weights = np.empty(problem.steps + 1)
    # A table without a constant stays so: at the foot of a ramp it would be an event for nothing.
    free = problem.offset and solution.offset != 0
    descend(T, h, weights, scaled.target(free, problem.spike_cost), _REFINED, scratch())
    T, h, d, offset = scaled.back(T, h, weights)
    return replace(solution, thresholds=T, resets=h, weights=d, offset=offset)


def _key(problem: Problem) -> _Key:
    """What problems of different K share if one growth serves them."""
    arrays = [problem.edges, problem.weights, problem.values]
    if problem.spike_cost:
        arrays.append(problem.rates)
    data = tuple(array.tobytes() for array in arrays)
    return (problem.name, problem.function, problem.offset, problem.spike_cost, data)


def _initial_values(
    problems: Sequence[Problem], curved: Sequence[int], seed: int, progress: bool
) -> list[list[Array]]:
    """TBPI's trends in each problem's units, for those at `curved`; none for the others."""
    found: list[list[Array]] = [[] for _ in problems]
    values = tbpi.initial_values([problems[i] for i in curved], seed=seed, progress=progress)
    for i, trends in zip(curved, values, strict=True):
        points = tbpi.mapped(problems[i])
        found[i] = [points.back(trend) for trend in trends]
    return found
