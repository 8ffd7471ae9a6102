"""In which units values are whole: potentials, what feeds them, and what analog parts say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from ..fitting.problem import Problem
from ..fitting.whole_weights import WholeTable
from ..graph.regions import packet
from .abilities import Abilities
from .records import Op

# Potentials have room for this much more than the range that calibration saw, and for what the
# steps make of it up to this many times the range.
_ROOM, _FARTHEST = 1.25, 4.0
# Thresholds beyond this many times the range are never, or always, exceeded.
_FAR = 16.0


@dataclass(frozen=True)
class States:
    """The membrane potentials of a site.

    Args:
        unit: of the potential, thresholds and resets.
        most: the largest potential; one below it, ``-most - 1``, is that of a hidden value.
    """

    unit: float
    most: int


def state_of(table: WholeTable, problem: Problem, bits: int, tied: float | None) -> States:
    """The finest unit in which no potential of a neuron overflows.

    Args:
        table: of the neuron.
        problem: that it was fitted to.
        bits: of a potential.
        tied: a unit of which this one is a half, a quarter, ..., or 2, 4, ... times; None for none.
    """
    most = 2 ** (bits - 1) - 1
    size = _ROOM * max(abs(problem.low), abs(problem.high), 1e-30)
    lowest, highest = -size, min(max(_all_fire(table), size), _FARTHEST * size)
    reach = max(_reach(T, h, -size, highest) for T, h in zip(
        np.clip(table.thresholds, -_FAR * size, _FAR * size), table.resets, strict=True
    ))  # fmt: skip
    need = max(highest, -lowest, reach) / most
    if tied is None:
        return States(need, most)
    return States(tied * 2.0 ** np.ceil(np.log2(need / tied) - 1e-9), most)


def _all_fire(table: WholeTable) -> float:
    """From which input on every step of the uppermost table fires."""
    T, h = table.thresholds[-1], table.resets[-1]
    return float((T + np.concatenate([[0.0], np.cumsum(h)[:-1]])).max())


def _reach(T: np.ndarray, h: np.ndarray, low: float, high: float) -> float:
    """The largest size that potentials and resets get."""
    reach = float(np.abs(h).max())
    for threshold, reset in zip(T, h, strict=True):
        after = max(low, threshold) - reset, high - reset
        low, high = min(low, after[0]), max(min(high, threshold), after[1])
        reach = max(reach, abs(low), abs(high))
    return reach


class Units:
    """Units of a network's values.

    Args:
        abilities: of the network.
        tables: by the path of the neuron.
        problems: that they were fitted to, likewise.
        bits: of a potential.
    """

    def __init__(
        self,
        abilities: Abilities,
        tables: Mapping[str, WholeTable],
        problems: Mapping[str, Problem],
        bits: int,
    ) -> None:
        self._abilities, self._tables = abilities, tables
        self.states: dict[str, States] = {}
        for node, op in abilities.op.items():
            path = str(node.target)
            if op is Op.NEURON and path not in self.states:
                (taken,) = node.all_input_nodes
                tied = next(self._direct(taken), None)
                self.states[path] = state_of(tables[path], problems[path], bits, tied)
        self.wanted = self._wanted()

    def _direct(self, node: Node) -> Iterator[float]:
        """Units of spikes that come to a value without weights."""
        op = self._abilities.op.get(node, Op.FLOAT)
        if op is Op.NEURON:
            yield self._tables[str(node.target)].unit
        elif op in (Op.MOVE, Op.JOIN, Op.SUM, Op.WINDOW, Op.MAXIMUM):
            factor = self.change(node)
            for before in node.all_input_nodes:
                for unit in self._direct(before):
                    yield unit * factor

    def change(self, node: Node) -> float:
        """What a unit is multiplied by behind an operation."""
        if self._abilities.op[node] is Op.WINDOW:
            return 1.0 / (self._abilities.window(node) or 1)
        if packet(node) in ("mul", "div"):
            return abs(self._abilities.factor(node) or 1.0)
        return 1.0

    def _wanted(self) -> dict[Node, float | None]:
        """The unit that everything behind a value takes it in; None where they differ."""
        ops = self._abilities.op
        wanted: dict[Node, set[float]] = {}
        for node in reversed(ops):
            found: set[float] = set()
            for user in node.users:
                op = ops.get(user, Op.FLOAT)
                if op is Op.NEURON:
                    found.add(self.states[str(user.target)].unit)
                elif op in (Op.MOVE, Op.JOIN, Op.SUM, Op.MAXIMUM):
                    found |= {unit / self.change(user) for unit in wanted.get(user, ())}
            wanted[node] = found
        return {n: next(iter(units)) if len(units) == 1 else None for n, units in wanted.items()}

    def needed(self) -> list[Node]:
        """Values that aren't spikes and that weights read: their range must be known."""
        ops = self._abilities.op
        spikes: set[Node] = set()
        for node, op in ops.items():
            before = [n for n in node.all_input_nodes if n in ops]
            routes = op in (Op.MOVE, Op.JOIN, Op.SUM, Op.WINDOW, Op.MAXIMUM)
            if op is Op.NEURON or (routes and all(n in spikes for n in before)):
                spikes.add(node)
        found: dict[Node, None] = {}
        for node, op in ops.items():
            if op in (Op.WEIGHTS, Op.SCALE):
                (signal,) = self._abilities.connections[node].signals
                if signal not in spikes:
                    found[signal] = None
        return list(found)
