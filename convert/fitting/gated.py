"""Neurons with gates: where the gates lie, a table for every interval, and gates that move.

x in (g(r-1), g(r)] runs table r. Gates are placed by an estimate (`intervals`), any fit method
fits the tables, and then gates and tables improve each other: a gate moves to where the error of
the two tables beside it is least, and the tables follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .intervals import Estimate, Interval, divide
from .problem import MOST_GATES, Array, Problem, Solution

# Fits plain problems, one solution each.
Solve = Callable[[Sequence[Problem]], list[Solution]]
# Improves a table on a problem that differs a little from the one that it was fitted to.
Refine = Callable[[Problem, Solution], Solution]

# The most rounds in which gates and tables improve each other, and what a round must gain.
_ROUNDS, _WORTH = 12, 1e-3


def solve(
    problems: Sequence[Problem], alone: Solve, fit: Solve, refine: Refine, *, thorough: bool
) -> list[Solution]:
    """Fits problems with gates.

    Args:
        problems: what to fit; each has gates.
        alone: fits a problem without gates, for comparison.
        fit: fits the tables of the intervals.
        refine: see `Refine`.
        thorough: compares with fewer gates as well, so that more gates are never worse; else what
            is found for the wanted ones is taken.
    """
    if thorough:
        return [_none_worse(problem, alone, fit, refine) for problem in problems]
    gates = [Estimate(problem).gates(problem.gates) for problem in problems]
    return [
        _polished(problem, found, refine)
        for problem, found in zip(problems, _fitted(problems, gates, fit), strict=True)
    ]


def _fitted(
    problems: Sequence[Problem], gates: Sequence[Sequence[float]], fit: Solve
) -> list[Solution]:
    """Tables for gates that lie somewhere; all of them are fitted at once."""
    parts = [divide(problem, g) for problem, g in zip(problems, gates, strict=True)]
    ways = [_with_and_without(part.problem) for own in parts for part in own]
    tables = iter(fit([problem for posed in ways for problem in posed]))
    chosen = iter([_cheaper(posed, [next(tables) for _ in posed]) for posed in ways])
    return [
        _joined(own, [next(chosen) for _ in own], g) for own, g in zip(parts, gates, strict=True)
    ]


def _with_and_without(problem: Problem) -> list[Problem]:
    """An interval's problem; where events have a price, once more without its constant."""
    if not problem.spike_cost or not problem.offset:
        return [problem]
    # What was taken from f comes back with the constant.
    stairs = tuple(stairs.lowered(-problem.base) for stairs in problem.stairs)
    values = problem.values + problem.base
    return [problem, replace(problem, values=values, stairs=stairs, base=0.0, offset=False)]


def _cheaper(posed: Sequence[Problem], tables: Sequence[Solution]) -> Solution:
    """The table of an interval with the least error and price of spikes and constant."""
    costs = [_interval_cost(p, table) for p, table in zip(posed, tables, strict=True)]
    best = int(np.argmin(costs))
    # In the unit of f without its base, as the first of them is.
    return replace(tables[best], offset=tables[best].offset + posed[best].base - posed[0].base)


def _interval_cost(problem: Problem, table: Solution) -> float:
    """The error of an interval's table, and the price of its events with the constant."""
    silent = not table.offset + problem.base
    constant = 0.0 if silent else problem.spike_cost * float(problem.rates.sum())
    return problem.cost(table, table.mse) + constant


def _none_worse(problem: Problem, alone: Solve, fit: Solve, refine: Refine) -> Solution:
    """The best of one table, of 2, 4, ... tables, and of as many as are wanted."""
    estimate = Estimate(problem)
    (best,) = alone([replace(problem, gates=0)])
    counts = [2**i - 1 for i in range(1, MOST_GATES.bit_length()) if 2**i - 1 < problem.gates]
    for count in (*counts, problem.gates):
        gates = estimate.gates(count)
        # Tables that moved with their gates are fitted anew where these came to lie.
        while gates:
            found = _polished(problem, _fitted([problem], [gates], fit)[0], refine)
            better = problem.cost(found, found.mse) < problem.cost(best, best.mse)
            best = found if better else best
            moved = better and count == problem.gates and list(found.gates) != list(gates)
            gates = list(found.gates) if moved else []
    return best


def _polished(problem: Problem, solution: Solution, refine: Refine) -> Solution:
    """Gates and tables improve each other until that is worth little."""
    cost = problem.cost(solution, solution.mse)
    for _ in range(_ROUNDS):
        gates = _moved(problem, solution)
        if np.array_equal(gates, solution.gates):
            break
        parts = divide(problem, gates)
        tables = [
            refine(part.problem, table) for part, table in zip(parts, solution.tables, strict=True)
        ]
        found = _joined(parts, tables, gates)
        found = replace(found, start=solution.start, seconds=solution.seconds)
        now = problem.cost(found, found.mse)
        if not now < cost:
            break
        worth = now < (1 - _WORTH) * cost
        solution, cost = found, now
        if not worth:
            break
    return solution


def _moved(problem: Problem, solution: Solution) -> Array:
    """Each gate where the error of the two tables beside it is least, the others as they are."""
    used = np.flatnonzero(problem.weights > 0)
    x, f, p = problem.centres[used], problem.values[used], problem.weights[used]
    edges, often = problem.edges[used + 1], problem.rates[used]
    gates = solution.gates.copy()
    tables = solution.tables
    for r in range(len(gates)):
        first = int(np.searchsorted(edges, gates[r - 1], side="right")) if r else 0
        last = len(x)
        if r + 1 < len(gates):
            last = int(np.searchsorted(edges, gates[r + 1], side="right"))
        if last - first < 2:
            continue
        part = slice(first, last)
        below, above = (p[part] * (tables[i](x[part]) - f[part]) ** 2 for i in (r, r + 1))
        if problem.spike_cost:
            below, above = (
                error + problem.spike_cost * often[part] * _events(problem, tables[i], x[part])
                for error, i in ((below, r), (above, r + 1))
            )
        # The gate lies behind bin i; one bin at least stays on either side.
        total = np.cumsum(below)[:-1] + (above.sum() - np.cumsum(above))[:-1]
        now = int(np.searchsorted(edges, gates[r], side="right")) - 1 - first
        best = int(np.argmin(total))
        if not 0 <= now < len(total) or total[best] < total[now]:
            gates[r] = edges[first + best]
    return gates


def _events(problem: Problem, table: Solution, x: Array) -> Array:
    """Events of the table of one interval for inputs ``[B]``, its constant among them."""
    return np.asarray(table.run(x)[1] + (table.offset + problem.base != 0), np.float64)


def _errors(parts: Sequence[Interval], tables: Sequence[Solution]) -> list[float]:
    """What each interval adds to the whole mean squared error."""
    found = []
    for part, table in zip(parts, tables, strict=True):
        used = part.problem.weights > 0
        x, f, p = (
            a[used] for a in (part.problem.centres, part.problem.values, part.problem.weights)
        )
        found.append(part.share * float(p @ (table(x) - f) ** 2))
    return found


def _joined(
    parts: Sequence[Interval], tables: Sequence[Solution], gates: Sequence[float] | Array
) -> Solution:
    """One neuron of the tables of its intervals."""
    mse = sum(_errors(parts, tables))
    if not len(gates):
        return replace(tables[0], mse=mse)
    return Solution(
        np.stack([table.thresholds for table in tables]),
        np.stack([table.resets for table in tables]),
        np.stack([table.weights for table in tables]),
        np.array([table.offset for table in tables], dtype=np.float64),
        mse,
        ", ".join(dict.fromkeys(str(table.start) for table in tables)),
        seconds=max(table.seconds for table in tables),
        gates=np.array(gates, dtype=np.float64),
    )
