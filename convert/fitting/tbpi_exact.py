"""TBPI's initial values with an exact refinement in place of its third stage.

Stages 1 and 2 are the paper's (`tbpi.initial_values`). Stage 3 descends the exact error
(`pieces`, `refine`); tables grown step by step (`search`) and the binary table compete, and
`Solution.start` says which won.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from . import binary, library, tbpi
from .exact_error import MOST_PIECES, loss
from .grow import errors_of, grow
from .newton import descend, scratch
from .parallel import run_all
from .problem import Array, Problem, Solution


@dataclass(frozen=True)
class Effort:
    """How much work a fit takes; it counts work and not seconds, so results repeat.

    Args:
        islands: searches side by side that share their best tables after every step.
        rounds: steps removed and regrown for each K.
        tries: proposals for a new step.
        polish: proposals that descend.
        iterations: of a descent.
        beam: tables kept.
    """

    islands: int
    rounds: int
    tries: int
    polish: int
    iterations: int
    beam: int


_ALONE = {"normal": Effort(4, 100, 300, 3, 60, 16), "high": Effort(8, 500, 300, 3, 60, 24)}
_SHARED = {"normal": Effort(1, 60, 150, 2, 40, 8), "high": Effort(2, 300, 300, 3, 60, 16)}
# Fewer rounds where a table has many pieces: an evaluation takes pieces x K operations. More where
# it has few.
_OPERATIONS, _CHEAP = 2000.0, 400.0
_RAMP_ITERATIONS = 40
# Tables of the library that descend, for each K.
_FROM_LIBRARY = 4


@dataclass(frozen=True, eq=False)
class Scaled:
    """A problem on [0, 1] with f of mean square 1.

    Args:
        data: bin edges and prefix sums of p, p f, p f^2, ``[4, B + 1]``.
        f: ``[B]``.
        low, width, gain: x = low + width * u, f(x) = gain * f(u).
    """

    data: Array
    f: Array
    low: float
    width: float
    gain: float

    @classmethod
    def of(cls, problem: Problem) -> Scaled:
        """Scales; rounding to a grid keeps the rounding of another scale from mattering."""
        low, width = problem.low, problem.high - problem.low
        u = np.round((problem.edges - low) / width * 2**30) / 2**30
        p = problem.weights / problem.weights.sum()
        values = np.where(p > 0, problem.values, 0.0)
        gain = float(np.sqrt(p @ values**2)) or 1.0
        f = np.round(values / gain * 2**22) / 2**22
        rows = [np.concatenate([[0.0], np.cumsum(p * f**power)]) for power in (0, 1, 2)]
        keep = np.flatnonzero(np.diff(u, prepend=-1.0) > 0)
        data = np.ascontiguousarray(np.stack([u, *rows])[:, keep])
        return cls(data, np.ascontiguousarray(f[keep[1:] - 1]), low, width, gain)

    def back(self, T: Array, h: Array, d: Array) -> tuple[Array, Array, Array, float]:
        """T, h, d and y0 in the problem's units; `d` holds y0 last."""
        weights = d[:-1] * self.gain
        return T * self.width + self.low, h * self.width, weights, float(d[-1] * self.gain)

    def into(self, T: Array, h: Array) -> Array:
        """T and h of the problem's units on [0, 1], ``[2, K]``."""
        return np.stack([(T - self.low) / self.width, h / self.width])


def solve(
    problems: Sequence[Problem],
    *,
    seed: int = 0,
    effort: str = "normal",
    progress: bool = False,
    entries: Sequence[library.Entry] | None = None,
) -> list[Solution]:
    """Fits every problem; those with the same function and distribution share one growth.

    Args:
        problems: what to fit.
        seed: of the random starts and of the search.
        effort: ``"high"`` takes about ten times the work.
        progress: shows a bar on stderr.
        entries: solutions to start from, those of the package unless given.
    """
    begin = time.perf_counter()
    known = library.shipped() if entries is None else entries
    groups: dict[tuple[str, bool, float, bytes, bytes], list[int]] = defaultdict(list)
    for i, p in enumerate(problems):
        groups[
            p.name + p.function, p.offset, p.spike_cost, p.edges.tobytes(), p.weights.tobytes()
        ].append(i)
    shared = len(groups) > 2
    given = {
        i: [_mapped_back(problems[i], trend) for trend in trends[: 2 if shared else None]]
        for i, trends in enumerate(_initial_values(problems, seed, effort, progress))
    }
    work = (_SHARED if shared else _ALONE)[effort]
    growths = [
        _Growth([problems[i] for i in members], [given[i] for i in members], work, seed, known)
        for members in groups.values()
    ]
    deepest = max(growth.most for growth in growths)
    # A group's next step needs the last one of all its islands.
    for k in range(1, deepest + 1):
        active = [growth for growth in growths if k <= growth.most]
        tasks = [task for growth in active for task in growth.tasks(k)]
        done = iter(run_all(tasks, f"fit, step {k} of {deepest}", progress))
        for growth in active:
            growth.merge(k, [next(done) for _ in growth.tasks(k)])
            growth.seconds[k] = time.perf_counter() - begin
    result: dict[int, Solution] = {}
    for growth, members in zip(growths, groups.values(), strict=True):
        result |= dict(zip(members, growth.solutions(), strict=True))
    return [result[i] for i in range(len(problems))]


def _initial_values(
    problems: Sequence[Problem], seed: int, effort: str, progress: bool
) -> list[list[Array]]:
    """TBPI's trends; a ramp has a better start in closed form and skips them."""
    curved = [i for i, p in enumerate(problems) if binary.ramp_of(p) is None]
    found: list[list[Array]] = [[] for _ in problems]
    if curved:
        values = tbpi.initial_values(
            [problems[i] for i in curved], seed=seed, effort="normal", progress=progress
        )
        for i, trends in zip(curved, values, strict=True):
            found[i] = trends
    return found


def _mapped_back(problem: Problem, trend: Array) -> Array:
    return tbpi.mapped(problem).back(trend)


class _Growth:
    """The tables of one function and distribution for K = 1, 2, ..."""

    def __init__(
        self,
        problems: list[Problem],
        given: list[list[Array]],
        effort: Effort,
        seed: int,
        known: Sequence[library.Entry],
    ) -> None:
        self.problems, self.given, self.effort, self.seed = problems, given, effort, seed
        self.known = known
        self.scaled = Scaled.of(problems[0])
        self.ramp = binary.ramp_of(problems[0])
        # At the foot of a ramp at 0 a constant would only make silent neurons speak.
        foot = self.ramp is not None and binary.at_zero(problems[0], self.ramp)
        self.free = problems[0].offset and not foot
        self.price = problems[0].spike_cost / self.scaled.gain**2
        self.most = max(problem.steps for problem in problems)
        self.tables = np.empty((0, 2, 0))
        self.best: dict[int, tuple[Array, str]] = {}
        self.seconds: dict[int, float] = {}

    def _starts(self, k: int) -> tuple[Array, list[str]]:
        """Initial tables of K = k and where they come from."""
        tables, names = [], []
        wanted = [(p, g) for p, g in zip(self.problems, self.given, strict=True) if p.steps == k]
        for _, given in wanted[:1]:
            tables += [self.scaled.into(table[0], table[1]) for table in given]
            names += ["tbpi"] * len(given)
        if self.ramp is not None:
            like = self.problems[0]
            problem = replace(like, steps=k)
            solution = binary.solve_one(problem)
            if solution is not None:
                tables.append(self.scaled.into(solution.thresholds, solution.resets))
                names.append("binary")
        else:
            found = self._nearest(k)
            tables += list(found)
            names += ["library"] * len(found)
        return np.array(tables).reshape(-1, 2, k), names

    def _nearest(self, k: int) -> Array:
        """The library's tables of K = k with the least error here."""
        tables = library.tables(self.known, k, *library.span(*self.scaled.data[:2]))
        errors = errors_of(tables, self.scaled.data, self.free, self.price, *scratch())
        order = np.argsort(errors, kind="stable")[:_FROM_LIBRARY]
        return tables[order[np.isfinite(errors[order])]]

    def tasks(self, k: int) -> list[Any]:
        """Searches for K = k, to be run side by side."""
        if self.ramp is not None:
            # A ramp's tables don't grow from those of fewer steps.
            wanted = any(problem.steps == k for problem in self.problems)
            return [partial(self._polish, k)] if wanted and 1 << k <= MOST_PIECES else []
        return [partial(self._search, k, island) for island in range(self.effort.islands)]

    def _polish(self, k: int) -> Any:
        """A ramp's binary table, refined; growing could only find it again."""
        starts, names = self._starts(k)
        work, codes = scratch()
        kept: list[Array] = []
        errors = []
        for start in starts:
            T, h, d = start[0].copy(), start[1].copy(), np.empty(k + 1)
            scaled = self.scaled
            errors.append(
                descend(
                    T,
                    h,
                    d,
                    scaled.data,
                    scaled.f,
                    self.free,
                    self.price,
                    _RAMP_ITERATIONS,
                    work,
                    codes,
                )
            )
            kept.append(np.stack([T, h]))
        return np.array(kept).reshape(-1, 2, k), np.array(errors), names

    def _search(self, k: int, island: int) -> Any:
        effort, scaled = self.effort, self.scaled
        # The islands share the starts out among themselves.
        starts, names = self._starts(k)
        starts, names = starts[island :: effort.islands], names[island :: effort.islands]
        work, codes = scratch()
        state = np.random.SeedSequence([self.seed, k, island]).generate_state(1, np.uint64)
        rounds = effort.rounds
        if len(self.tables):
            pieces, _ = self._pieces(self.tables[0], work, codes)
            share = max(min(1.0, _OPERATIONS / (pieces * k)), min(4.0, _CHEAP / (pieces * k)))
            rounds = max(8, round(rounds * share))
        before = np.ascontiguousarray(self.tables) if k > 1 else np.empty((1, 2, 0))
        tables, errors, winner, filled = grow(
            before,
            len(self.tables),
            np.ascontiguousarray(starts),
            scaled.data,
            scaled.f,
            self.free,
            self.price,
            effort.beam,
            rounds,
            effort.tries,
            effort.polish,
            effort.iterations,
            work,
            codes,
            state,
        )
        start = names[winner] if winner >= 0 else "grown"
        return tables[:filled], errors[:filled], [start] + ["grown"] * (filled - 1)

    def _pieces(self, table: Array, work: Array, codes: Any) -> tuple[int, Array]:
        k = table.shape[1]
        d = np.empty(k + 1)
        gram = np.empty((k + 1, k + 1))
        T, h = np.ascontiguousarray(table[0]), np.ascontiguousarray(table[1])
        _, pieces = loss(T, h, self.scaled.data, self.free, self.price, work, codes, gram, d)
        return pieces, d

    def merge(self, k: int, found: list[Any]) -> None:
        """Pools what the islands found and keeps the best."""
        if not found:
            return
        tables = np.concatenate([part[0] for part in found])
        errors = np.concatenate([part[1] for part in found])
        starts = [name for part in found for name in part[2]]
        order = np.argsort(errors, kind="stable")
        kept: list[int] = []
        for i in order:
            if np.isfinite(errors[i]) and len(kept) < self.effort.beam:
                if not kept or errors[i] > errors[kept[-1]] * (1 + 1e-6):
                    kept.append(i)
        if kept:
            self.tables = tables[kept]
            self.best[k] = (self.tables[0], starts[kept[0]])

    def solutions(self) -> list[Solution]:
        """For each problem the best of the refined tables and of the unrefined starts."""
        return [
            self._solution(problem, given)
            for problem, given in zip(self.problems, self.given, strict=True)
        ]

    def _solution(self, problem: Problem, given: list[Array]) -> Solution:
        candidates, stages = [], {}
        if problem.steps in self.best:
            table, start = self.best[problem.steps]
            _, d = self._pieces(table, *scratch())
            T, h, weights, offset = self.scaled.back(table[0], table[1], d)
            candidates.append(Solution(T, h, weights, offset, 0.0, start))
        candidates += [Solution(z[0], z[1], z[2], 0.0, 0.0, "tbpi") for z in given]
        plain = binary.solve_one(problem) if self.ramp is not None else None
        candidates += [plain] if plain is not None else []
        used = problem.weights > 0
        x, f = problem.centres[used], problem.values[used]
        p = problem.weights[used] / problem.weights[used].sum()
        errors = [float(p @ (c(x) - f) ** 2) for c in candidates]
        if given:
            first = len(candidates) - len(given) - (plain is not None)
            stages["trend"] = min(errors[first : first + len(given)])
        costs = errors
        if problem.spike_cost > 0:
            spikes = [float(p @ c.run(x)[1]) for c in candidates]
            costs = [e + problem.spike_cost * n for e, n in zip(errors, spikes, strict=True)]
        best = int(np.argmin(costs))
        c = candidates[best]
        stages["trained"] = errors[best]
        return Solution(
            c.thresholds,
            c.resets,
            c.weights,
            c.offset,
            errors[best],
            c.start,
            stages,
            self.seconds.get(problem.steps, 0.0),
        )
