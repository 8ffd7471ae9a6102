"""The run of a network spike by spike: every operation on the trains of its inputs, tick by tick.

A site begins when its inputs are complete. It compares with its gates in one tick, where it has
any, and then takes a tick for each of its K steps; what it sends at a tick arrives at once at every
operation behind it. Weights are applied to zeros and ones, one train after the other, and what they
make is multiplied by d behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from ..graph.run import compute, last_read
from ..neuron.few_spikes import FewSpikesNeuron
from .linear_parts import LinearParts
from .synapses import Connection, Passage
from .trains import Signal, Source, Train, plus, through, zeros_like


@dataclass(frozen=True)
class Fired:
    """What the neurons of a site did.

    Args:
        start: the tick at which their inputs were complete.
        potential: before the first step ``[N, ...]``.
        spikes: bool ``[K, N, ...]``.
        interval: the table of each, int64 ``[N, ...]``; None without gates.
        fast_input: what comes to them in the fast run ``[N, ...]``.
        arrived: ticks, and the potentials ``[N, ...]`` after what arrived at each; the last ones
            are those before the first step.
    """

    start: int
    potential: Tensor
    spikes: Tensor
    interval: Tensor | None
    fast_input: Tensor
    arrived: Sequence[tuple[int, Tensor]]


@dataclass(frozen=True)
class Ran:
    """What came out.

    Args:
        outputs: flat outputs of the spikes.
        fast: those of the fast run.
        ready: the tick at which all of them were complete, counted from the first image's arrival.
    """

    outputs: list[Any]
    fast: list[Any]
    ready: int


class Watcher(Protocol):
    """Is told what happens in a run."""

    def fired(self, connection: Connection, neuron: FewSpikesNeuron, fired: Fired) -> None:
        """What the neurons of a site did."""

    def wanted(self, site: str) -> bool:
        """Whether potentials of a site are asked for."""

    def passed(self, connection: Connection, signals: Sequence[Signal], result: Signal) -> None:
        """What an operation took and made; for a site, what came to it and what it sends."""


def walk_spikes(
    network: GraphModule,
    connections: Mapping[Node, Connection],
    leaves: Sequence[Any],
    watcher: Watcher,
) -> Ran:
    """Runs some images spike by spike, and beside it as the network does by itself.

    Args:
        network: a graph that calls its neurons as modules.
        connections: of the network.
        leaves: its flat inputs.
        watcher: what is told of the run.
    """
    return SpikeWalk(network, connections, watcher).run(leaves)


class SpikeWalk:
    """One run, with the fast run beside it.

    Args:
        network, connections, watcher: as for `walk_spikes`.
    """

    def __init__(
        self, network: GraphModule, connections: Mapping[Node, Connection], watcher: Watcher
    ) -> None:
        self.network, self.connections, self.watcher = network, connections, watcher
        self.signals: dict[Node, Signal] = {}
        # Every value as the fast run has it; those that are no signals serve here as well.
        self.fast: dict[Node, Any] = {}

    def run(self, leaves: Sequence[Any]) -> Ran:
        given = iter(leaves)
        last = last_read(self.network.graph)
        for node in self.network.graph.nodes:
            if node.op == "output":
                break
            if node.op == "placeholder":
                self.fast[node] = value = next(given)
                if isinstance(value, Tensor) and value.is_floating_point():
                    self.signals[node] = Signal(sums={0: value}, analog=True)
                continue
            connection = self.connections.get(node)
            if connection is None:
                self.fast[node] = compute(self.network, node, self._known(node))
            else:
                self.signals[node] = self._through(connection)
            for dead in last.get(node, ()):
                self.fast.pop(dead, None)
                self.signals.pop(dead, None)
        returned: Any = node.args[0]
        decoded = {**self.fast, **{n: s.decoded() for n, s in self.signals.items()}}
        fast = {**decoded, **self.fast}
        ready = max((signal.ready for signal in self.signals.values()), default=0)
        return Ran(
            pytree.tree_leaves(map_arg(returned, decoded.__getitem__)),
            pytree.tree_leaves(map_arg(returned, fast.__getitem__)),
            ready,
        )

    # What a walk that calls modules does in another way.

    def beside(self, node: Node) -> None:
        """Computes an operation as the fast run does."""
        self.fast[node] = compute(self.network, node, self.fast)

    def sent(self, site: str, spikes: Tensor) -> Tensor:
        """What leaves a site at one tick, zeros and ones ``[N, ...]``."""
        return spikes

    def tell_events(self, result: Signal, neuron: FewSpikesNeuron, fired: Fired) -> None:
        """Notes on what a site sends how many events come from each neuron."""
        whole = fired.spikes.sum(0, dtype=torch.float64)
        if neuron.gates is not None:
            whole = whole + _said(neuron, fired)
        result.events, result.active = whole, (whole > 0).double()

    def along(self, parts: LinearParts, node: Node, train: Train) -> Train:
        """A train behind a route, which reads it as the signal of a node."""
        value = self.moved(parts, node, train.value)
        return Train(train.source, train.tick, train.weight, value)

    def moved(self, parts: LinearParts, node: Node, value: Any) -> Any:
        """A value behind a route, which reads it as the signal of a node."""
        return parts.part(node, value)

    def weighed(self, parts: LinearParts, node: Node, train: Train) -> Any:
        """What weights make of a train, before d; they read it as the signal of a node."""
        return parts.part(node, train.value)

    def computed(self, connection: Connection, values: Mapping[Node, Any]) -> Any:
        """What an operation makes of decoded values."""
        return compute(self.network, connection.node, values)

    def constant(self, parts: LinearParts, values: Mapping[Node, Any]) -> Any:
        """What an operation makes of constants, and of those that it holds."""
        return parts.constant(values)

    # What every walk does.

    def _known(self, node: Node) -> Mapping[Node, Any]:
        """Values that are read by what is no operation on signals: sizes, masks."""
        absent = [n for n in node.all_input_nodes if n not in self.fast]
        return {**self.fast, **{n: self.signals[n].decoded() for n in absent}}

    def _through(self, connection: Connection) -> Signal:
        """What an operation makes of its signals."""
        node = connection.node
        read = [self.signals[n] for n in connection.signals]
        if connection.passage is Passage.SITE:
            result = self._site(connection, read[0])
        elif connection.passage is Passage.ROUTE and read:
            result = self._route(connection)
        elif connection.passage is Passage.WEIGHTS and _only_trains(read):
            result = self._weights(connection)
        else:
            result = self._values(connection)
        if node not in self.fast:
            self.beside(node)
        self.watcher.passed(connection, read, result)
        if connection.passage is Passage.WEIGHTS:
            # Behind weights there are no more events.
            result.events = result.active = None
        return result

    def _site(self, connection: Connection, signal: Signal) -> Signal:
        neuron = self.network.get_submodule(str(connection.node.target))
        assert isinstance(neuron, FewSpikesNeuron)
        potential, arrived = signal.constant, []
        recorded = self.watcher.wanted(connection.site)
        for tick, value in signal.arriving():
            potential = plus(potential, value)
            if recorded:
                arrived.append((tick, potential))
        spikes = neuron.spikes(potential)
        interval = None if neuron.gates is None else neuron.interval(potential)
        (before,) = connection.node.all_input_nodes
        fast_input = self.fast.get(before, potential)
        fired = Fired(signal.ready, potential, spikes, interval, fast_input, arrived)
        self.watcher.fired(connection, neuron, fired)
        result = _sent(connection.name, neuron, fired, partial(self.sent, connection.site))
        self.tell_events(result, neuron, fired)
        return result

    def _parts(self, connection: Connection) -> LinearParts:
        zeros = {n: zeros_like(self.fast.get(n, self.signals[n].part)) for n in connection.signals}
        known = {n: v for n, v in self.fast.items() if n in set(connection.node.all_input_nodes)}
        return LinearParts(connection, known, zeros)

    def _constant(self, connection: Connection, parts: LinearParts) -> Any:
        """What the operation makes of constants, and of those that it holds."""
        own = {n: self.signals[n].constant for n in connection.signals}
        return self.constant(parts, {n: v for n, v in own.items() if v is not None})

    def _route(self, connection: Connection) -> Signal:
        parts = self._parts(connection)
        result = Signal(self._constant(connection, parts))
        with_arrivals: list[tuple[Signal, Callable[[Any], Any]]] = []
        for node in connection.signals:
            signal = self.signals[node]
            result.trains += [self.along(parts, node, train) for train in signal.trains]
            for tick, value in signal.sums.items():
                result.add(tick, self.moved(parts, node, value))
            result.ready = max(result.ready, signal.ready)
            result.analog = result.analog or signal.analog
            with_arrivals.append((signal, partial(parts.arrivals, node)))
        result.events = through(with_arrivals, lambda s: s.events)
        result.active = through(with_arrivals, lambda s: s.active)
        return result

    def _weights(self, connection: Connection) -> Signal:
        parts = self._parts(connection)
        (node,) = connection.signals
        signal = self.signals[node]
        result = Signal(self._constant(connection, parts), ready=signal.ready)
        for train in signal.trains:
            made = self.weighed(parts, node, train)
            result.add(train.tick, pytree.tree_map(lambda x, w=train.weight: x * w, made))
        result.events = through([(signal, partial(parts.arrivals, node))], lambda s: s.events)
        result.active = through([(signal, partial(parts.arrivals, node))], lambda s: s.active)
        return result

    def _values(self, connection: Connection) -> Signal:
        """An operation that takes decoded values, once all are there."""
        read = {n: self.signals[n] for n in connection.signals}
        values = {**self.fast, **{n: signal.decoded() for n, signal in read.items()}}
        ready = max((signal.ready for signal in read.values()), default=0)
        analog = not connection.linear or any(signal.analog for signal in read.values())
        made = self.computed(connection, values)
        return Signal(sums={ready: made}, ready=ready, analog=analog or not read)


def _only_trains(signals: Sequence[Signal]) -> bool:
    return len(signals) == 1 and bool(signals[0].trains) and not signals[0].sums


def _sent(
    site: str,
    neuron: FewSpikesNeuron,
    fired: Fired,
    send: Callable[[Tensor], Tensor],
) -> Signal:
    """The trains of a site, and the constant that no event tells."""
    potential, dtype = fired.potential, fired.potential.dtype
    offset, d = neuron.offset.detach().to(dtype), neuron.weights.detach().to(dtype)
    gates = neuron.gates is not None
    begin = fired.start + gates
    result = Signal(ready=fired.start + neuron.latency)
    if fired.interval is None:
        result.constant = torch.full_like(potential, float(offset))
        for t in range(neuron.steps):
            spikes = send(fired.spikes[t].to(dtype))
            result.trains.append(Train(Source(site, t + 1, 0), begin + t + 1, d[t], spikes))
    else:
        first = send(_said(neuron, fired).to(dtype))
        ticks = [send(spikes.to(dtype)) for spikes in fired.spikes]
        for r in range(neuron.intervals):
            inside = ((fired.interval == r) & (potential == potential)).to(dtype)
            if neuron.offset[r] != 0:
                result.trains.append(Train(Source(site, 0, r), begin, offset[r], first * inside))
            for t, spikes in enumerate(ticks):
                source = Source(site, t + 1, r)
                result.trains.append(Train(source, begin + t + 1, d[r, t], spikes * inside))
        result.constant = torch.zeros_like(potential)
    # NaN stays what it is.
    if bool(potential.isnan().any()):
        result.constant = torch.where(potential.isnan(), potential, result.constant)
    return result


def _said(neuron: FewSpikesNeuron, fired: Fired) -> Tensor:
    """Which neurons tell the constant of their interval, bool ``[N, ...]``."""
    assert fired.interval is not None
    return (neuron.offset.detach() != 0)[fired.interval] & ~fired.potential.isnan()
