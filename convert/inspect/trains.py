"""Signals of a simulation: spike trains that arrive at their ticks, sums of weights, constants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Source(NamedTuple):
    """Where a train comes from.

    Args:
        site: its name.
        step: t, from 1; 0 for the constants of intervals.
        interval: the table, from 0.
    """

    site: str
    step: int
    interval: int


@dataclass(frozen=True)
class Train:
    """The spikes of one step and interval of a site, or what routes made of them.

    Args:
        source: where they come from.
        tick: when they arrive.
        weight: d, or y0 of an interval: what weights make of the spikes is multiplied by it.
        value: zeros and ones ``[...]``; behind a pooling its means or sums of them.
        count: how many events come to each place, float64 ``[...]``, in a run that asks for it;
            None where the value tells.
    """

    source: Source
    tick: int
    weight: Tensor
    value: Any
    count: Any = None


@dataclass
class Signal:
    """A value of the network, as it comes in.

    Args:
        constant: what is there before any event: biases, and what layers make of them; None for 0.
        trains: spikes on their way, unweighted.
        sums: what weights made of spikes, and values that are none, by the tick of their arrival.
        ready: the tick at which all is there.
        events: how many events of all trains come to each place, float64; None without trains.
        active: how many neurons that send an event are behind each place, float64.
        analog: whether some of it is no weighted sum of spikes.
    """

    constant: Any = None
    trains: list[Train] = field(default_factory=list)
    sums: dict[int, Any] = field(default_factory=dict)
    ready: int = 0
    events: Any = None
    active: Any = None
    analog: bool = False

    @property
    def part(self) -> Any:
        """One that has the form of the whole value."""
        return next(iter(self.sums.values())) if self.constant is None else self.constant

    def add(self, tick: int, value: Any) -> None:
        """Puts a value beside what comes at the same tick."""
        self.sums[tick] = plus(self.sums.get(tick), value)

    def arriving(self) -> Iterator[tuple[int, Any]]:
        """What comes at each tick, weighted, in the order of time."""
        found: dict[int, Any] = dict(self.sums)
        for train in self.trains:
            found[train.tick] = plus(found.get(train.tick), times(train.value, train.weight))
        for tick in sorted(found):
            yield tick, found[tick]

    def decoded(self) -> Any:
        """The whole value."""
        value = self.constant
        for _, more in self.arriving():
            value = plus(value, more)
        assert value is not None
        return value


def through(
    signals: list[tuple[Signal, Callable[[Any], Any]]], read: Callable[[Signal], Any]
) -> Any:
    """The sum of what an operation makes of a part of each signal; None where no signal has it."""
    result = None
    for signal, make in signals:
        value = read(signal)
        if value is not None:
            result = plus(result, make(value))
    return result


def plus(a: Any, b: Any) -> Any:
    """The sum of two values of one structure; the first may be None."""
    if a is None:
        return b
    return pytree.tree_map(lambda x, y: x + y if isinstance(x, Tensor) else x, a, b)


def times(value: Any, factor: Tensor) -> Any:
    """A value of any structure, multiplied."""
    return pytree.tree_map(lambda x: x * factor if _real(x) else x, value)


def zeros_like(value: Any) -> Any:
    """Zeros in the place of numbers."""
    return pytree.tree_map(lambda x: torch.zeros_like(x) if isinstance(x, Tensor) else x, value)


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
