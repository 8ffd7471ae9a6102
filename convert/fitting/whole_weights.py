"""Tables whose output weights are whole multiples of one unit: powers of two, or small integers.

The weights are a choice among whole numbers; for each choice the unit and y0 follow by least
squares, and thresholds and resets descend on the exact error (`exact_error`, `newton`) with these
weights held. Then single weights move to a neighbour where that lowers the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from numba import njit

from . import binary
from .exact_error import Scratch, Target, cholesky_solve, error_of, moments, scratch, split
from .intervals import divide
from .newton import Derivatives, newton
from .problem import Array, Problem, Solution
from .scaled import Scaled

Ints = npt.NDArray[np.int64]

# Units that are tried, as powers of two over the one of the largest weight.
_OCTAVES = np.arange(-4, 17) / 16
# Choices of weights from which thresholds and resets descend.
_KEPT = 4
_DESCENT, _TRIAL, _ROUNDS = 80, 12, 3
# The largest weight in units: more steps need finer ones.
_LEAST_BITS, _MOST_BITS = 6, 12
# Bits below the smallest weight, in which y0 is told.
_FRACTION = 3
_LARGEST_INTEGER = 255


class Whole(StrEnum):
    """Which whole numbers output weights may be; equal to its plain word."""

    POWERS = "power-of-two"
    INTEGERS = "integer"

    def nearest(self, x: Array, bits: int) -> Array:
        """The allowed number nearest to each; a weight of 0 stays 0, no other becomes it."""
        size = np.abs(x)
        if self is Whole.INTEGERS:
            found = np.clip(np.rint(size), 1, _LARGEST_INTEGER)
        else:
            low = np.floor(np.log2(np.maximum(size, 1.0)))
            found = 2.0 ** np.clip(np.where(size > 1.5 * 2.0**low, low + 1, low), 0, bits)
        return np.where(size == 0, 0.0, np.sign(x) * found)

    def neighbours(self, z: float, bits: int) -> list[float]:
        """Numbers beside one, and its negative."""
        if z == 0:
            return [1.0, -1.0]
        size = abs(z)
        if self is Whole.INTEGERS:
            sizes = [size + by for by in (-4, -2, -1, 1, 2, 4)]
            near = [s for s in sizes if 1 <= s <= _LARGEST_INTEGER]
        else:
            near = [s for s in (size / 2, size * 2) if 1 <= s <= 2.0**bits]
        return [float(np.sign(z)) * s for s in near]

    def largest(self, bits: int) -> float:
        """The largest number."""
        return float(_LARGEST_INTEGER) if self is Whole.INTEGERS else 2.0**bits


@dataclass(frozen=True, eq=False)
class WholeTable:
    """A fitted neuron with whole output weights.

    Args:
        thresholds, resets: float64 ``[G, K]``, in units of the input.
        weights: int64 ``[G, K]``: d in units of `unit`.
        offsets: int64 ``[G]``: y0 in units of `unit`.
        unit: in units of the output.
        gates: float64 ``[G - 1]``.
        mse: mean squared error.
        rounded_mse: that of the given neuron with its weights rounded and nothing fitted.
        free_mse: that of the given neuron.
    """

    thresholds: Array
    resets: Array
    weights: Ints
    offsets: Ints
    unit: float
    gates: Array
    mse: float
    rounded_mse: float
    free_mse: float

    def solution(self) -> Solution:
        """The same with plain weights."""
        d = np.asarray(self.weights * self.unit, np.float64)
        y0 = np.asarray(self.offsets * self.unit, np.float64)
        if len(self.gates):
            return Solution(
                self.thresholds, self.resets, d, y0, self.mse, "whole", gates=self.gates
            )
        return Solution(self.thresholds[0], self.resets[0], d[0], float(y0[0]), self.mse, "whole")


@dataclass
class _Found:
    """A table in the units of its scaled problem; z are its whole weights."""

    T: Array
    h: Array
    z: Array
    unit: float
    y0: float
    error: float


@njit(cache=True, nogil=True)
def _loss(T, h, z, unit, target, scratch, d):  # type: ignore[no-untyped-def]
    """Error with the best unit and y0 (`unit` > 0 keeps it), and the pieces; d is written.

    Args:
        T, h, z: ``[K]``.
        unit: 0 for the best one.
        target, scratch: see `exact_error`.
        d: weights and y0, written ``[K + 1]``.
    """
    K = len(T)
    work, codes = scratch.work, scratch.codes
    n = split(T, h, work[0], work[1], codes)
    if n < 0:
        return np.inf, 0
    moments(n, work[0], target.data, work[2:5])
    total = at = square = first = mixed = 0.0
    for i in range(n):
        whole = 0.0
        for t in range(K):
            if codes[i] >> t & 1:
                whole += z[t]
        work[5, i] = whole
        p, f = work[2, i], work[3, i]
        total += p
        at += p * whole
        square += p * whole * whole
        first += f
        mixed += f * whole
    if unit <= 0.0:
        over = total * square - at * at if target.free else square
        if not over > 1e-12 * max(square, 1e-30):
            return np.inf, n
        unit = (total * mixed - at * first) / over if target.free else mixed / over
        if not unit > 0.0:
            return np.inf, n
    y0 = (first - unit * at) / total if target.free else 0.0
    for t in range(K):
        d[t] = unit * z[t]
    d[K] = y0
    for i in range(n):
        work[5, i] = y0 + unit * work[5, i]
    return error_of(n, codes, work[2:5], work[5], 0.0, work[6]), n


@njit(cache=True, nogil=True)
def _descend(T, h, z, unit, target, iterations, scratch, d):  # type: ignore[no-untyped-def]
    """Damped Newton steps in T and h, which are overwritten with d; returns the error."""
    K = len(T)
    size = 3 * K + 1
    G, H, g = np.zeros((K + 1, K + 1)), np.zeros((size, size)), np.zeros(size)
    A, step = np.zeros((2 * K, 2 * K)), np.zeros(2 * K)
    trial_T, trial_h, trial_d = np.empty(K), np.empty(K), np.empty(K + 1)
    now, n = _loss(T, h, z, unit, target, scratch, d)
    damping, stalled, fresh = 1e-3, 0, False
    for _ in range(iterations):
        if not np.isfinite(now) or damping > 1e6 or stalled >= 3:
            break
        if not fresh:
            newton(T, h, d, n, target, scratch, Derivatives(G, H, g))
            fresh = True
        biggest = 0.0
        for i in range(2 * K):
            biggest = max(biggest, H[i, i])
        for i in range(2 * K):
            step[i] = -g[i]
            for j in range(2 * K):
                A[i, j] = H[i, j]
            A[i, i] += damping * A[i, i] + (1e-7 * biggest + 1e-14) * (1 + damping)
        accepted = False
        if cholesky_solve(A, step, 2 * K):
            for i in range(K):
                trial_T[i] = T[i] + min(max(step[i], -0.05), 0.05)
                trial_h[i] = h[i] + min(max(step[K + i], -0.05), 0.05)
            then, m = _loss(trial_T, trial_h, z, unit, target, scratch, trial_d)
            if then < now:
                accepted = True
                stalled = stalled + 1 if now - then < 1e-5 * now else 0
                T[:], h[:], d[:] = trial_T, trial_h, trial_d
                now, n, fresh = then, m, False
                damping = max(damping * 0.3, 1e-9)
        if not accepted:
            damping *= 4.0
            # A refused trial left its own pieces behind; the derivatives are those of before.
    return now


class _Part:
    """The fit of one table.

    Args:
        problem: of the table's interval.
        given: a table without whole weights.
        whole: which numbers the weights may be.
        bits: of the largest power.
        share: of the interval in the whole problem's weight.
    """

    def __init__(
        self, problem: Problem, given: Solution, whole: Whole, bits: int, share: float = 1.0
    ) -> None:
        self.whole, self.bits = whole, bits
        self.scaled = Scaled.of(problem)
        self.gain = self.scaled.gain
        # What errors in scaled units are worth in the problem's.
        self.worth = share * self.gain**2
        self.target: Target = self.scaled.target(problem.offset, 0.0)
        self._scratch: Scratch = scratch()
        self.starts = [self._start(given)]
        if not len(problem.jumps):
            (plain,) = binary.solve([replace(problem, gates=0)])
            self.starts.append(self._start(plain))

    def _start(self, given: Solution) -> tuple[Array, Array, Array]:
        T, h = self.scaled.into(np.clip(given.thresholds, -1e30, 1e30), given.resets)
        # Beyond the range all thresholds are alike.
        return np.clip(T, -8.0, 9.0), h, np.asarray(given.weights / self.gain, np.float64)

    def at(self, T: Array, h: Array, z: Array, unit: float, steps: int = 0) -> _Found:
        """A table with given weights, its thresholds and resets descended from given ones.

        Args:
            T, h, z: where to begin.
            unit: in scaled units; 0 for the best one.
            steps: of the descent; 0 for none.
        """
        T, h, d = T.copy(), h.copy(), np.zeros(len(T) + 1)
        if steps:
            error = _descend(T, h, z, unit, self.target, steps, self._scratch, d)
        else:
            error, _ = _loss(T, h, z, unit, self.target, self._scratch, d)
        some = np.flatnonzero(z)
        own = float(d[some[0]] / z[some[0]]) if len(some) else 1.0
        return _Found(T, h, z, unit or own, float(d[-1]), float(error))

    def units(self) -> list[float]:
        """Units in which the weights given can be told, in the problem's units of output."""
        size = max(float(np.abs(d).max()) for _, _, d in self.starts[:1]) * self.gain or 1.0
        largest = self.whole.largest(self.bits)
        return [size / largest * 2.0**i for i in _OCTAVES]

    def choices(self, unit: float, fixed: bool) -> list[_Found]:
        """The starts with their weights rounded to whole units, best first.

        Args:
            unit: in the problem's units of output.
            fixed: whether it stays.
        """
        found = []
        for T, h, d in self.starts:
            own = unit / self.gain
            if not fixed and np.abs(d).max() > 0:
                own *= np.abs(d).max() / (np.abs(self.starts[0][2]).max() or 1.0)
            z = self.whole.nearest(d / own, self.bits)
            found.append(self.at(T, h, z, own if fixed else 0.0))
        return sorted(found, key=lambda f: f.error)

    def rounded(self, unit: float, fixed: bool) -> _Found:
        """The table given with its weights rounded to whole units, and nothing else changed.

        Args:
            unit, fixed: as for `choices`.
        """
        T, h, d = self.starts[0]
        z = self.whole.nearest(d * self.gain / unit, self.bits)
        return self.at(T, h, z, unit / self.gain if fixed else 0.0)

    def improved(self, found: _Found, fixed: bool) -> _Found:
        """A table after descents, and moves of single weights."""

        def unit(f: _Found) -> float:
            return f.unit if fixed else 0.0

        best = self.at(found.T, found.h, found.z, unit(found), _DESCENT)
        for _ in range(_ROUNDS):
            before = best.error
            for t in range(len(best.z)):
                for other in self.whole.neighbours(float(best.z[t]), self.bits):
                    z = best.z.copy()
                    z[t] = other
                    trial = self.at(best.T, best.h, z, unit(best), _TRIAL)
                    best = trial if trial.error < best.error else best
            if not best.error < (1 - 1e-3) * before:
                break
        return self.at(best.T, best.h, best.z, unit(best), _DESCENT)


def fit_whole(problem: Problem, given: Solution, whole: Whole) -> WholeTable:
    """A neuron with whole output weights, from one without.

    Args:
        problem: what it is fitted to.
        given: a fitted neuron of this problem, the problem's base included in its y0.
        whole: which numbers the weights may be.
    """
    if len(given.gates):
        return _gated(problem, given, whole)
    part = _Part(problem, given, whole, _bits(given))
    choices = [found for unit in part.units() for found in part.choices(unit, False)]
    rounded = min((part.rounded(unit, False) for unit in part.units()), key=_error)
    kept: dict[bytes, _Found] = {}
    for found in sorted(choices, key=_error):
        kept.setdefault(found.z.tobytes(), found)
    best = min((part.improved(f, False) for f in list(kept.values())[:_KEPT]), key=_error)
    return _best([part], [best], [rounded], np.empty(0), problem, given)


def _error(found: _Found) -> float:
    return found.error


def _bits(given: Solution) -> int:
    """Bits of the largest power for a table of so many steps."""
    steps = given.thresholds.shape[-1]
    return min(max(steps + 1, _LEAST_BITS), _MOST_BITS)


def _gated(problem: Problem, given: Solution, whole: Whole) -> WholeTable:
    """The same with gates: all tables have one unit."""
    at, tables = _with_weight(problem, given)
    gates = problem.edges[at]
    bits = _MOST_BITS - 2
    parts = [
        _Part(interval.problem, table, whole, bits, interval.share)
        for interval, table in zip(divide(problem, gates), tables, strict=True)
    ]
    largest = max(float(np.abs(table.weights).max()) for table in tables) or 1.0
    units = [largest / whole.largest(bits) * 2.0**i for i in _OCTAVES]

    def cost(found: Sequence[_Found]) -> float:
        return sum(part.worth * f.error for part, f in zip(parts, found, strict=True))

    rounded = min(([p.rounded(unit, True) for p in parts] for unit in units), key=cost)
    ways = sorted(([p.choices(unit, True)[0] for p in parts] for unit in units), key=cost)
    best = min(
        ([p.improved(f, True) for p, f in zip(parts, way, strict=True)] for way in ways[:_KEPT]),
        key=cost,
    )
    # Where all values are in one interval, its table is compared.
    return _best(parts, best, rounded, gates, problem, given if len(gates) else tables[0])


def _with_weight(problem: Problem, given: Solution) -> tuple[Ints, list[Solution]]:
    """Gates as places among the edges, and tables, without intervals that no value reaches."""
    last = len(problem.weights)
    total = np.concatenate([[0.0], np.cumsum(problem.weights)])
    places = [int(i) for i in np.searchsorted(problem.edges, given.gates).clip(0, last)]
    at: list[int] = []
    tables: list[Solution] = []
    begin = 0
    for end, table in zip((*places, last), given.tables, strict=True):
        if end > begin and total[end] > total[begin]:
            if tables:
                at.append(begin)
            tables.append(table)
            begin = end
    return np.array(at, np.int64), tables


def _best(
    parts: Sequence[_Part],
    fitted: Sequence[_Found],
    rounded: Sequence[_Found],
    gates: Array,
    problem: Problem,
    given: Solution,
) -> WholeTable:
    """The fitted neuron, or the rounded one where that is no worse; with the errors of both."""
    first, second = (_joined(parts, found, gates, problem) for found in (fitted, rounded))
    taken = first if first.mse < second.mse else second
    return replace(taken, rounded_mse=second.mse, free_mse=error_on(problem, given))


def _joined(
    parts: Sequence[_Part], found: Sequence[_Found], gates: Array, problem: Problem
) -> WholeTable:
    """One neuron of the tables of its intervals, y0 in whole units too."""
    unit = found[0].unit * parts[0].gain
    back = [part.scaled.back(f.T, f.h, np.append(f.z, f.y0)) for part, f in
            zip(parts, found, strict=True)]  # fmt: skip
    y0 = np.array([row[3] for row in back]) + problem.base
    z = np.stack([f.z for f in found])
    fraction = 0
    if (y0 != 0).any():
        # No further than the largest weight allows.
        room = _MOST_BITS - int(np.ceil(np.log2(max(np.abs(z).max(), 1.0))))
        fraction = max(min(_FRACTION, room), 0)
    whole, rest = (z * 2**fraction).astype(np.int64), np.rint(y0 / unit * 2**fraction)
    common = int(np.gcd.reduce(np.append(whole.ravel(), rest.astype(np.int64)))) or 1
    table = WholeTable(
        np.stack([row[0] for row in back]),
        np.stack([row[1] for row in back]),
        whole // common,
        rest.astype(np.int64) // common,
        unit / 2**fraction * common,
        gates,
        0.0,
        0.0,
        0.0,
    )
    return replace(table, mse=error_on(problem, table.solution()))


def error_on(problem: Problem, solution: Solution) -> float:
    """Mean squared error of a neuron, the problem's base included in its y0."""
    used = problem.weights > 0
    p = problem.weights[used] / problem.weights[used].sum()
    return float(p @ (solution(problem.centres[used]) - problem.values[used] - problem.base) ** 2)
