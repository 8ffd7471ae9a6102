"""Where the gates of a neuron lie: intervals of the input range that share the error out evenly.

The error of a table on an interval is estimated, not fitted, for every pair of candidate ends:

    E(a, b) ~ q^(1 - s) r^s,  q = 4^-K / 12 (integral of (p f'^2)^(1/3))^3,

q is the error of the best quantiser of 2^K levels (Panter & Dite 1951), which a table reaches where
f is nearly a line; r is the error of the best line, which is what there is to bend; both are sums
over the interval's share of the density p. The exponent s grows with K: it was measured on fits to
intervals of SiLU (docs/exact-fit.md). Dynamic programming finds the ends of least total error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .problem import Array, Problem

# K, and the measured exponent of the line's error in the estimate.
_STEPS = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_SHARES = (0.02, 0.1, 0.27, 0.4, 0.5, 0.55)
# Ends that are compared.
_CANDIDATES = 72


@dataclass(frozen=True)
class Interval:
    """One interval's part of a problem.

    Args:
        problem: on the interval alone, weights summing to 1.
        share: its part of the whole problem's weight.
    """

    problem: Problem
    share: float


def divide(problem: Problem, gates: Sequence[float] | Array) -> list[Interval]:
    """The parts of a problem between its gates.

    Args:
        problem: the whole.
        gates: edges of bins, increasing, with at least one bin of weight between two of them.
    """
    edges = problem.edges
    at = [0, *(int(i) for i in np.searchsorted(edges, gates)), len(edges) - 1]
    parts = []
    for r, (first, last) in enumerate(pairwise(at)):
        weights = problem.weights[first:last]
        share = float(weights.sum())
        ends = edges[first] if r else -np.inf, edges[last] if last < len(edges) - 1 else np.inf
        jumps = problem.jumps
        part = replace(
            problem,
            edges=edges[first : last + 1],
            weights=weights / share,
            values=problem.values[first:last],
            # What is learned of one part of a function serves the same part of others.
            function=f"{problem.function}, part {r + 1} of {len(at) - 1}",
            name=f"{problem.name}, interval {r + 1}",
            # A constant of an interval is an event, not a bias. Below all gates lies -inf.
            offset=problem.offset or r > 0,
            masked=problem.masked and r == 0,
            jumps=jumps[(jumps > edges[first]) & (jumps < edges[last])],
            stairs=tuple(stairs.between(*ends) for stairs in problem.stairs),
            frequencies=problem.rates[first:last] / share if problem.spike_cost else None,
            gates=0,
        )
        parts.append(Interval(part, share))
    return parts


class Estimate:
    """Estimated errors of a problem's tables between any two of some candidate ends.

    Args:
        problem: what is fitted.
    """

    def __init__(self, problem: Problem) -> None:
        used = np.flatnonzero(problem.weights > 0)
        self.x, self.f = problem.centres[used], problem.values[used]
        self.p = problem.weights[used] / problem.weights[used].sum()
        self.steps = problem.steps
        # The upper edge of each used bin, and below them the lowest.
        self._edges = problem.edges[np.append(used[0], used + 1)]
        self._width = np.diff(problem.edges)[used]
        self._chosen = self._candidates()

    @property
    def ends(self) -> Array:
        """Candidate ends, the lowest and the highest input among them."""
        return self._edges[self._chosen]

    @cached_property
    def _levels(self) -> Array:
        """Each bin's part of the integral that bounds a quantiser's error ``[B]``."""
        slopes = np.abs(np.gradient(self.f, self.x)) if len(self.x) > 1 else np.zeros(1)
        return np.cbrt(self.p * slopes**2 * self._width**2)

    def _candidates(self) -> npt.NDArray[np.int64]:
        """How many bins lie below each candidate, increasing, 0 first."""
        bins = len(self.x)
        if bins <= _CANDIDATES:
            return np.arange(bins + 1)
        curve = np.abs(np.gradient(np.gradient(self.f, self.x), self.x))
        bend = (self.p * self._width**4 * curve**2) ** 0.2
        measures = (self._levels, bend, np.cbrt(self.p), self.p)
        mixed = np.sum([m / m.sum() for m in measures if m.sum() > 0], axis=0)
        total = np.cumsum(mixed) / mixed.sum()
        inner = np.searchsorted(total, np.arange(1, _CANDIDATES) / _CANDIDATES) + 1
        return np.unique(np.concatenate([[0], np.clip(inner, 1, bins - 1), [bins]]))

    def gates(self, count: int) -> list[float]:
        """The gates of least estimated error, by dynamic programming; fewer where bins are few.

        Args:
            count: how many.
        """
        size = len(self._costs)
        count = min(count, size - 2)
        least = self._costs[0].copy()
        back = []
        for _ in range(count):
            # A last interval from end i to end j, after the best way to i.
            total = least[:, None] + self._costs
            came = np.argmin(total, axis=0)
            back.append(came)
            least = total[came, np.arange(size)]
        at, path = size - 1, []
        for came in reversed(back):
            at = int(came[at])
            path.append(at)
        return [float(self.ends[i]) for i in reversed(path)]

    @cached_property
    def _costs(self) -> Array:
        """Estimated errors from candidate i to candidate j ``[M, M]``; infinite for j <= i."""
        line, levels = self._lines(), np.cumsum(self._levels)
        at = np.concatenate([[0.0], levels])[self._chosen]
        quantiser = np.maximum(at[None] - at[:, None], 0.0) ** 3 / 12 / 4.0**self.steps
        share = float(np.interp(self.steps, _STEPS, _SHARES))
        cost = np.maximum(quantiser ** (1 - share) * line**share, quantiser)
        # Something above 0 keeps an interval from growing where all is alike.
        cost = cost + 1e-9 * cost.max() * self._shares() + 1e-300
        cost[np.tril_indices(len(cost))] = np.inf
        return cost

    def _shares(self) -> Array:
        total = np.concatenate([[0.0], np.cumsum(self.p)])[self._chosen]
        return np.abs(total[None] - total[:, None])

    def _lines(self) -> Array:
        """Squared error of the best line from candidate i to candidate j ``[M, M]``.

        Sums around each interval's own means: values may lie over decades.
        """
        size = len(self._chosen)
        result = np.zeros((size, size))
        # Weight, means of x and f, and sums of products around them, from every i to the j of now.
        weight, mx, mf, xx, xf, ff = np.zeros((6, size))
        for j in range(1, size):
            part = slice(self._chosen[j - 1], self._chosen[j])
            p, x, f = self.p[part], self.x[part], self.f[part]
            w = p.sum()
            ax, af = p @ x / w, p @ f / w
            sums = p @ (x - ax) ** 2, p @ ((x - ax) * (f - af)), p @ (f - af) ** 2
            both = weight + w
            dx, df = ax - mx, af - mf
            joint = weight * w / both
            xx, xf, ff = (
                old + new + joint * cross
                for old, new, cross in zip(
                    (xx, xf, ff), sums, (dx * dx, dx * df, df * df), strict=True
                )
            )
            mx, mf, weight = mx + dx * w / both, mf + df * w / both, both
            slope = np.divide(xf, xx, out=np.zeros(size), where=xx > 0)
            result[:j, j] = np.maximum(ff - slope * xf, 0.0)[:j]
            # An interval that begins here knows nothing yet.
            weight[j:], mx[j:], mf[j:], xx[j:], xf[j:], ff[j:] = 0, 0, 0, 0, 0, 0
        return result
