"""A problem in units in which scale doesn't matter, as the compiled code takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .exact_error import Target
from .problem import Array, Problem


@dataclass(frozen=True, eq=False)
class Scaled:
    """A problem on [0, 1] with f of mean square 1.

    Args:
        data: bin edges and prefix sums of p, p f, p f^2 and of how often inputs occur,
            ``[5, B + 1]``.
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
        rows.append(np.concatenate([[0.0], np.cumsum(problem.rates)]))
        keep = np.flatnonzero(np.diff(u, prepend=-1.0) > 0)
        data = np.ascontiguousarray(np.stack([u, *rows])[:, keep])
        return cls(data, np.ascontiguousarray(f[keep[1:] - 1]), low, width, gain)

    def back(self, T: Array, h: Array, d: Array) -> tuple[Array, Array, Array, float]:
        """T, h, d and y0 in the problem's units; `d` holds y0 last."""
        weights = d[:-1] * self.gain
        return T * self.width + self.low, h * self.width, weights, float(d[-1] * self.gain)

    def target(self, free: bool, price: float) -> Target:
        """What tables are fitted to.

        Args:
            free: whether y0 may differ from 0.
            price: of one expected spike, in the problem's units of squared error.
        """
        return Target(self.data, self.f, bool(free), float(price / self.gain**2))

    def into(self, T: Array, h: Array) -> Array:
        """T and h of the problem's units on [0, 1], ``[2, K]``."""
        return np.stack([(T - self.low) / self.width, h / self.width])
