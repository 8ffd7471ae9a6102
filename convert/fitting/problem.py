"""What a neuron is fitted to, and what a fit returns."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from numbers import Integral

import numpy as np
import numpy.typing as npt

from ..errors import FitError

Array = npt.NDArray[np.float64]

# The most steps: which of them fired is one int64, a bit for each, and the sign stays free.
MOST_STEPS = 63
# The most gates: the tables of a step fit into one vector register.
MOST_GATES = 15
# From here on a fit takes many minutes, and the steps are finer than the inputs.
_MANY_STEPS = 32

# Multiples of it fall evenly and never regularly into [0, 1).
_GOLDEN = 0.5 * (5**0.5 - 1)


def scattered(low: Array, high: Array) -> Array:
    """A point of every interval ``[B]``, at irregular places.

    Levels finer than the intervals would be in step with their centres.
    """
    return low + (high - low) * (np.arange(len(low)) * _GOLDEN % 1)


class Start(StrEnum):
    """Where the table that a fit returns came from."""

    TBPI = "tbpi"
    RANDOM = "random"
    BINARY = "binary"
    LIBRARY = "library"
    GROWN = "grown"
    STAIRS = "stairs"
    DIGITS = "digits"


def check_steps(steps: object, name: str = "steps") -> None:
    """Refuses what is no K.

    Args:
        steps: one number of time steps.
        name: what it is called in the message.

    Raises:
        FitError: unless it is a whole number from 1 to `MOST_STEPS`.
    """
    whole = isinstance(steps, Integral) and not isinstance(steps, bool)
    if not whole or not 1 <= steps <= MOST_STEPS:  # type: ignore[operator]
        raise FitError(f"{name} must be one whole number K from 1 to {MOST_STEPS}, found {steps!r}")


def check_gates(gates: object, name: str = "gates") -> None:
    """Refuses what is no number of gates.

    Args:
        gates: how many gates one neuron has.
        name: what it is called in the message.

    Raises:
        FitError: unless it is a whole number from 0 to `MOST_GATES`.
    """
    whole = isinstance(gates, Integral) and not isinstance(gates, bool)
    if not whole or not 0 <= gates <= MOST_GATES:  # type: ignore[operator]
        raise FitError(f"{name} must be a whole number from 0 to {MOST_GATES}, found {gates!r}")


def warn_of_many_steps(steps: Iterable[int], stacklevel: int = 3) -> None:
    """Says what many time steps cost, once for all of them.

    Args:
        steps: every K that is asked for.
        stacklevel: of the warning; 3 is who called the caller.
    """
    most = max(steps, default=0)
    if most > _MANY_STEPS:
        warnings.warn(
            f"K = {most} is a lot: float32 inputs tell at most 2^24 levels apart, so steps beyond "
            "24 hardly lower the error, and the time of a fit grows faster than the square of K "
            "(14 times from K = 8 to 24); K = 4 to 16 is usual",
            stacklevel=stacklevel,
        )


@dataclass(frozen=True, eq=False)
class Stairs:
    """A function that is constant between jumps.

    Args:
        jumps: the last input before every jump, float64 ``[n]``, increasing.
        levels: f before the first, between them, and behind the last, float64 ``[n + 1]``.
    """

    jumps: Array
    levels: Array

    def lowered(self, by: float) -> Stairs:
        """The same staircase, lower by a number."""
        return Stairs(self.jumps, self.levels - by)

    def between(self, low: float, high: float) -> Stairs:
        """The part above `low` and up to `high`."""
        first = int(np.searchsorted(self.jumps, low, side="right"))
        last = int(np.searchsorted(self.jumps, high, side="left"))
        return Stairs(self.jumps[first:last], self.levels[first : last + 1])


@dataclass(frozen=True, eq=False)
class Problem:
    """One scalar function under one input distribution, to be met by a neuron of K steps.

    The density is constant inside a bin, and so is f: the value at the bin's centre.

    Args:
        edges: bin edges, float64 ``[B + 1]``, strictly increasing.
        weights: probability of each bin, float64 ``[B]``, non-negative, summing to 1. A bin of
            weight 0 bridges a gap.
        values: f at the bin centres, float64 ``[B]``; read only where the weight is positive.
        steps: K, the number of time steps.
        function: what f is called; problems of one function share what is learned about it.
        name: the site, for messages.
        offset: whether y0 may differ from 0.
        spike_cost: squared error that one event fewer is worth; `tbpi-exact` heeds it.
        gates: G - 1, the gates that divide the inputs among G tables; 0 for one table.
        masked: whether -inf, at which no step fires, is an input and f is 0 there; y0 is 0 then.
        base: what was taken from f, and is added to y0 afterwards.
        jumps: the last input before every jump of f in the range; an edge each.
        stairs: f as a staircase, on wider ranges first; empty where it is none.
        frequencies: how often inputs fall in each bin, float64 ``[B]``, where the weights are
            another measure: events are counted by them. None for the weights.

    Raises:
        FitError: for a shape that doesn't fit, a weight or value that isn't finite, K that is no
            whole number from 1 to `MOST_STEPS`, or gates from 0 to `MOST_GATES`.
    """

    edges: Array
    weights: Array
    values: Array
    steps: int
    function: str = "f"
    name: str = "f"
    offset: bool = True
    spike_cost: float = 0.0
    gates: int = 0
    masked: bool = False
    base: float = 0.0
    jumps: Array = field(default_factory=lambda: np.empty(0))
    stairs: tuple[Stairs, ...] = ()
    frequencies: Array | None = None

    def __post_init__(self) -> None:
        bins = len(self.weights)
        if bins < 1 or len(self.edges) != bins + 1 or len(self.values) != bins:
            raise FitError(
                f"{self.name}: {len(self.edges)} edges, {bins} weights and {len(self.values)} "
                "values; B weights need B + 1 edges and B values, B >= 1"
            )
        if not (np.isfinite(self.edges).all() and (np.diff(self.edges) > 0).all()):
            raise FitError(f"{self.name}: the bin edges must be finite and strictly increasing")
        used = self.weights > 0
        if not np.isfinite(self.weights).all() or (self.weights < 0).any() or not used.any():
            raise FitError(
                f"{self.name}: the weights must be finite, non-negative and not all zero"
            )
        if not np.isfinite(self.values[used]).all():
            at = self.centres[used][~np.isfinite(self.values[used])][0]
            raise FitError(
                f"{self.name}: {self.function} is not finite at x = {at:.6g}, which lies in the "
                "input range; choose a range without the pole"
            )
        if not (np.isfinite(self.spike_cost) and self.spike_cost >= 0):
            raise FitError(
                f"{self.name}: spike_cost must be finite and >= 0, found {self.spike_cost!r}"
            )
        often = self.frequencies
        if often is not None and (
            often.shape != (bins,) or not np.isfinite(often).all() or (often < 0).any()
        ):
            raise FitError(f"{self.name}: the frequencies must be {bins} finite numbers >= 0")
        check_steps(self.steps, f"{self.name}: steps")
        check_gates(self.gates, f"{self.name}: gates")

    @property
    def centres(self) -> Array:
        """Bin centres, float64 ``[B]``."""
        return 0.5 * (self.edges[:-1] + self.edges[1:])

    @property
    def rates(self) -> Array:
        """How often inputs fall in each bin, float64 ``[B]``."""
        if self.frequencies is not None:
            return self.frequencies
        return np.asarray(self.weights / self.weights.sum(), np.float64)

    def events(self, solution: Solution) -> float:
        """Expected number of a neuron's events for one input."""
        if self.base and len(solution.gates):
            solution = replace(solution, offset=solution.offset + self.base)
        return float(self.rates @ solution.run(self.centres)[1])

    def cost(self, solution: Solution, error: float) -> float:
        """What a fit makes small: the error, and the price of the events.

        Args:
            solution: a neuron.
            error: its mean squared error.
        """
        if not self.spike_cost:
            return error
        return error + self.spike_cost * self.events(solution)

    @property
    def low(self) -> float:
        """Lower end of the input range."""
        return float(self.edges[0])

    @property
    def high(self) -> float:
        """Upper end of the input range."""
        return float(self.edges[-1])

    @property
    def variance(self) -> float:
        """Variance of f under the distribution."""
        used = self.weights > 0
        p = self.weights[used] / self.weights[used].sum()
        f = self.values[used]
        return float(p @ (f - p @ f) ** 2)


@dataclass(frozen=True, eq=False)
class Solution:
    """Parameters of a fitted few-spikes neuron and how good they are.

    Args:
        thresholds: T, float64 ``[K]``, or ``[G, K]`` with gates.
        resets: h, of that shape.
        weights: d, of that shape.
        offset: y0, or ``[G]`` with gates.
        mse: mean squared error under the problem's distribution.
        start: which start won; with gates, those of all tables (``grown, binary``).
        stages: mean squared error after each stage of the method, for those who ask.
        seconds: from the start of a sweep over K until this table was found, or 0.
        gates: float64 ``[G - 1]``, increasing; x in ``(gates[r - 1], gates[r]]`` runs table r.
    """

    thresholds: Array
    resets: Array
    weights: Array
    offset: float | Array
    mse: float
    start: str
    stages: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    gates: Array = field(default_factory=lambda: np.empty(0))

    @property
    def tables(self) -> list[Solution]:
        """The neuron's tables, each as one of its own; itself where there are no gates."""
        if not len(self.gates):
            return [self]
        offsets = np.asarray(self.offset)
        return [
            Solution(T, h, d, float(offset), self.mse, self.start)
            for T, h, d, offset in zip(
                self.thresholds, self.resets, self.weights, offsets, strict=True
            )
        ]

    def __call__(self, x: Array) -> Array:
        """Output of the neuron, float64, for inputs of any shape."""
        return self.run(x)[0]

    def run(self, x: Array) -> tuple[Array, npt.NDArray[np.int64]]:
        """Output and number of events for inputs of any shape.

        An event is a spike; with gates, so is the constant of an interval that has one.
        """
        x = np.asarray(x, dtype=np.float64)
        if not len(self.gates):
            return self._steps(x)
        y, count = np.empty_like(x), np.zeros(x.shape, np.int64)
        interval = np.searchsorted(self.gates, x, side="left")
        for r, table in enumerate(self.tables):
            inside = interval == r
            y[inside], spikes = table._steps(x[inside])
            count[inside] = spikes + (table.offset != 0)
        return y, count

    def _steps(self, x: Array) -> tuple[Array, npt.NDArray[np.int64]]:
        v = x.copy()
        y, count = np.full_like(v, self.offset), np.zeros(v.shape, np.int64)
        for T, h, d in zip(self.thresholds, self.resets, self.weights, strict=True):
            spike = v > T
            y += d * spike
            v -= h * spike
            count += spike
        return y, count
