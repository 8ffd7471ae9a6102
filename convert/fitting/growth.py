"""The tables of one function and distribution for K = 1, 2, ..., each grown from the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ..errors import FitError
from . import binary, digits, library
from .exact_error import MOST_PIECES, errors_of, loss, scratch
from .grow import Search, grow
from .newton import descend
from .problem import Array, Problem, Solution, Start
from .ramp import at_zero, ramp_of
from .scaled import Scaled


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
        trends: of TBPI's trends, how many become starts; all if None.
    """

    islands: int
    rounds: int
    tries: int
    polish: int
    iterations: int
    beam: int
    trends: int | None


# Fewer rounds where a table has many pieces: an evaluation takes pieces x K operations. More where
# it has few.
_OPERATIONS, _CHEAP = 2000.0, 400.0
_RAMP_ITERATIONS = 40
# Tables of the library that descend, for each K, and of those that count in digits.
_FROM_LIBRARY, _FROM_DIGITS = 4, 8


class Found(NamedTuple):
    """Tables of one search.

    Args:
        tables: ``[n, 2, K]``.
        errors: ``[n]``.
        starts: where each came from.
    """

    tables: Array
    errors: Array
    starts: list[Start]


Task = Callable[[], Found]


class Growth:
    """The tables of one function and distribution.

    What a K gets depends on no other K that is asked for: tables of K steps grow from those of
    K - 1 that were found without TBPI's trends, and the trends of K are starts of K alone.

    Args:
        problems: of one function and distribution; their K are those asked for.
        given: T, h, d ``[3, K]`` of TBPI's trends for each problem.
        effort: of the search.
        seed: of the search.
        known: solutions to start from.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        given: Sequence[Sequence[Array]],
        effort: Effort,
        seed: int,
        known: Sequence[library.Entry],
    ) -> None:
        self.problems, self.effort, self.seed, self.known = problems, effort, seed, known
        self.given = [trends[: effort.trends] for trends in given]
        self.scaled = Scaled.of(problems[0])
        self.ramp = ramp_of(problems[0])
        # At the foot of a ramp at 0 a constant would only make silent neurons speak.
        foot = self.ramp is not None and at_zero(problems[0], self.ramp)
        free = problems[0].offset and not foot
        self.target = self.scaled.target(free, problems[0].spike_cost)
        self.most = max(problem.steps for problem in problems)
        # Of each K that is asked for, the trends.
        self.trends = {p.steps: g for p, g in zip(problems, self.given, strict=True)}
        self.tables = np.empty((0, 2, 0))
        self.best: dict[int, tuple[Array, Start]] = {}
        self.seconds: dict[int, float] = {}

    def tasks(self, k: int) -> list[Task]:
        """Searches for K = k, to be run side by side; `merge` takes what they find."""
        if self.ramp is not None:
            # A ramp's tables don't grow from those of fewer steps.
            asked = k in self.trends and 1 << k <= MOST_PIECES
            return [partial(self._polish, k)] if asked else []
        return [
            partial(self._search, k, island, trends)
            for trends in self._searches(k)
            for island in range(self.effort.islands)
        ]

    def merge(self, k: int, found: Sequence[Found]) -> None:
        """Pools what the searches for K = k found side by side and keeps the best."""
        if not found:
            return
        searches = [False] if self.ramp is not None else self._searches(k)
        each = len(found) // len(searches)
        for i, trends in enumerate(searches):
            tables, starts = self._pooled(found[i * each : (i + 1) * each])
            if len(tables):
                self.best[k] = tables[0], starts[0]
                self.tables = self.tables if trends else tables

    def solutions(self) -> list[Solution]:
        """For each problem the best of the refined tables and of the unrefined starts."""
        return [
            self._solution(problem, given)
            for problem, given in zip(self.problems, self.given, strict=True)
        ]

    def _searches(self, k: int) -> list[bool]:
        """Whether each search for K = k starts from TBPI's trends, too.

        The last one gives the table of K = k, the one without trends those to grow from.
        """
        with_trends = bool(self.trends.get(k))
        return [False] * (k < self.most or not with_trends) + [True] * with_trends

    def _polish(self, k: int) -> Found:
        """A ramp's binary table, refined; growing could only find it again."""
        starts, names = self._starts(k, trends=True)
        space, errors = scratch(), []
        tables = np.ascontiguousarray(starts)
        for T, h in tables:
            errors.append(descend(T, h, np.empty(k + 1), self.target, _RAMP_ITERATIONS, space))
        return Found(tables, np.array(errors), names)

    def _search(self, k: int, island: int, trends: bool) -> Found:
        effort = self.effort
        # The islands share the starts out among themselves.
        starts, names = self._starts(k, trends)
        starts, names = starts[island :: effort.islands], names[island :: effort.islands]
        state = np.random.SeedSequence([self.seed, k, island]).generate_state(1, np.uint64)
        rounds = effort.rounds
        if len(self.tables):
            pieces = self._pieces(self.tables[0])
            share = max(min(1.0, _OPERATIONS / (pieces * k)), min(4.0, _CHEAP / (pieces * k)))
            rounds = max(8, round(rounds * share))
        known = self.tables.shape[2] == k - 1
        before = np.ascontiguousarray(self.tables) if known else np.empty((0, 2, k - 1))
        search = Search(effort.beam, rounds, effort.tries, effort.polish, effort.iterations)
        tables, errors, winner, filled = grow(
            before, np.ascontiguousarray(starts), self.target, search, scratch(), state
        )
        first = names[winner] if winner >= 0 else Start.GROWN
        return Found(tables[:filled], errors[:filled], [first] + [Start.GROWN] * (filled - 1))

    def _starts(self, k: int, trends: bool) -> tuple[Array, list[Start]]:
        """Initial tables of K = k ``[n, 2, K]`` and where they come from."""
        given = self.trends.get(k, []) if trends else []
        tables = [self.scaled.into(table[0], table[1]) for table in given]
        names = [Start.TBPI] * len(given)
        if self.ramp is not None:
            solution = binary.solve_one(replace(self.problems[0], steps=k))
            if solution is not None:
                tables.append(self.scaled.into(solution.thresholds, solution.resets))
                names.append(Start.BINARY)
        else:
            found = self._nearest(k)
            tables += list(found)
            names += [Start.LIBRARY] * len(found)
        if self.target.price > 0:
            cheap = self._cheapest(k)
            tables += list(cheap)
            names += [Start.DIGITS] * len(cheap)
        return np.array(tables).reshape(-1, 2, k), names

    def _nearest(self, k: int) -> Array:
        """The library's tables of K = k with the least error here."""
        tables = library.tables(self.known, k, *library.span(*self.scaled.data[:2]))
        errors = errors_of(tables, self.target, scratch())
        order = np.argsort(errors, kind="stable")[:_FROM_LIBRARY]
        return tables[order[np.isfinite(errors[order])]]

    def _cheapest(self, k: int) -> Array:
        """The tables that count in digits with the least error and price here."""
        begin, reach = 0.0, 1.0
        if self.ramp is not None:
            begin = (self.ramp.begin - self.scaled.low) / self.scaled.width
            reach = self.ramp.length / self.scaled.width
        free = self.target.free
        data, f = self.target.data, self.target.f
        tables = np.array(digits.starts(data, f, k, begin=begin, reach=reach, free=free))
        errors = errors_of(tables, self.target, scratch())
        order = np.argsort(errors, kind="stable")[:_FROM_DIGITS]
        return tables[order[np.isfinite(errors[order])]]

    def _pieces(self, table: Array) -> int:
        """How many pieces a table ``[2, K]`` has."""
        k = table.shape[1]
        T, h = np.ascontiguousarray(table)
        _, pieces = loss(T, h, self.target, scratch(), np.empty((k + 1, k + 1)), np.empty(k + 1))
        return int(pieces)

    def _weights(self, table: Array) -> Array:
        """The best weights and y0 ``[K + 1]`` of a table ``[2, K]``."""
        d = np.empty(table.shape[1] + 1)
        # A descent without iterations, which a ramp has loaded already.
        T, h = np.array(table)
        descend(T, h, d, self.target, 0, scratch())
        return d

    def _pooled(self, found: Sequence[Found]) -> tuple[Array, list[Start]]:
        """The best tables of several searches, no two of one error."""
        tables = np.concatenate([part.tables for part in found])
        errors = np.concatenate([part.errors for part in found])
        starts = [name for part in found for name in part.starts]
        kept: list[int] = []
        for i in np.argsort(errors, kind="stable"):
            if np.isfinite(errors[i]) and len(kept) < self.effort.beam:
                if not kept or errors[i] > errors[kept[-1]] * (1 + 1e-6):
                    kept.append(int(i))
        return tables[kept], [starts[i] for i in kept]

    def _candidates(self, problem: Problem, given: Sequence[Array]) -> list[Solution]:
        """The refined table and the unrefined starts."""
        result = []
        if problem.steps in self.best:
            table, start = self.best[problem.steps]
            d = self._weights(table)
            T, h, weights, offset = self.scaled.back(table[0], table[1], d)
            result.append(Solution(T, h, weights, offset, 0.0, start))
        result += [Solution(z[0], z[1], z[2], 0.0, 0.0, Start.TBPI) for z in given]
        plain = binary.solve_one(problem) if self.ramp is not None else None
        return result + ([plain] if plain is not None else [])

    def _solution(self, problem: Problem, given: Sequence[Array]) -> Solution:
        candidates = self._candidates(problem, given)
        if not candidates:
            raise FitError(
                f"{problem.name}: no table has a finite error; scale {problem.function} or lower "
                "spike_cost"
            )
        used = problem.weights > 0
        x, f = problem.centres[used], problem.values[used]
        p = problem.weights[used] / problem.weights[used].sum()
        errors = [float(p @ (c(x) - f) ** 2) for c in candidates]
        costs = [problem.cost(c, e) for c, e in zip(candidates, errors, strict=True)]
        best = int(np.argmin(costs))
        stages = {"trained": errors[best]}
        if given:
            first = int(problem.steps in self.best)
            stages["trend"] = min(errors[first : first + len(given)])
        seconds = self.seconds.get(problem.steps, 0.0)
        return replace(candidates[best], mse=errors[best], stages=stages, seconds=seconds)
