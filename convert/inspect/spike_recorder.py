"""What a simulation keeps: spikes and potentials of some sites, rates and counts of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from ..graph.operators import operator_of
from ..neuron.few_spikes import FewSpikesNeuron
from .flips import Flips
from .image_places import image_layout
from .layer_quantities import OperationSeen, counts_of
from .operation_counts import OperationCounts
from .spike_walk import Fired
from .synapses import Connection, Passage
from .trains import Signal


@dataclass
class Record:
    """What is kept of a site in one piece, in the order of axes that the network has there.

    Args:
        start: the tick at which the inputs were complete.
        spikes: bool ``[K, ...]``.
        interval: the table of each value, uint8 ``[...]``; None without gates.
        ticks: at which potentials were seen.
        potentials: ``[T, ...]``, after what happened at each tick.
    """

    start: int
    spikes: Tensor
    interval: Tensor | None
    ticks: list[int]
    potentials: Tensor

    @property
    def bytes(self) -> int:
        """Size in memory."""
        kept = (self.spikes, self.potentials, self.interval)
        return sum(t.numel() * t.element_size() for t in kept if t is not None)


class Recorder:
    """Watches a run.

    Args:
        network: what runs.
        sites: names of those whose spikes and potentials are kept.
    """

    def __init__(self, network: GraphModule, sites: Sequence[str]) -> None:
        self.network, self.sites = network, frozenset(sites)
        self.records: dict[str, list[Record]] = {}
        self.flips = Flips()
        # Spikes of each step, float64 [K], of all images.
        self.by_step: dict[str, Tensor] = {}
        # The tick at which the inputs of each site are complete, and that at which it is done: in a
        # recurrent layer, with all time steps.
        self.starts: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self._seen: dict[Node, OperationSeen] = {}

    @property
    def bytes(self) -> int:
        """Size of the records in memory."""
        return sum(record.bytes for pieces in self.records.values() for record in pieces)

    def wanted(self, site: str) -> bool:
        """Whether potentials of a site are asked for."""
        return site in self.sites

    def fired(self, connection: Connection, neuron: FewSpikesNeuron, fired: Fired) -> None:
        """What the neurons of a site did."""
        name = connection.site
        self.flips.compare(name, neuron, fired.spikes, fired.interval, fired.fast_input)
        seen = self._of(connection)
        seen.steps, seen.intervals = neuron.steps, neuron.intervals
        seen.neurons += fired.spikes[0].numel()
        self.starts[name] = min(fired.start, self.starts.get(name, fired.start))
        self.ends[name] = max(fired.start + neuron.latency, self.ends.get(name, 0))
        by_step = fired.spikes.flatten(1).sum(1, dtype=torch.float64)
        self.by_step[name] = self.by_step.get(name, 0) + by_step
        if name in self.sites:
            self.records.setdefault(name, []).append(_record(neuron, fired))

    def passed(self, connection: Connection, signals: Sequence[Signal], result: Signal) -> None:
        """What an operation took and made."""
        if connection.passage is Passage.ROUTE and signals:
            return
        seen = self._of(connection)
        if connection.passage is Passage.SITE:
            seen.events += float(result.events.sum())
            seen.additions += _events(signals)
            return
        seen.outputs += _size(result)
        seen.weights = weights_of(connection, self.network)
        if result.events is None:
            seen.inputs = "analog" if any(s.analog for s in signals) or not signals else "sums"
            seen.additions += _events(signals)
            return
        seen.inputs = "spikes"
        seen.trains = len({train.source for train in signals[0].trains})
        seen.accumulates += float(result.events.sum())
        seen.active += float(result.active.sum())

    def rates(self) -> dict[str, Tensor]:
        """Spikes per neuron and step of every site, float64 ``[K]``; before `counts`.

        In a recurrent layer a neuron takes its K steps once at every time step; these are summed.
        """
        neurons = {seen.connection.site: seen.neurons for seen in self._seen.values()}
        return {name: spikes / neurons[name] for name, spikes in self.by_step.items()}

    def counts(self, images: int) -> OperationCounts:
        """Everything that was counted, for one image in the mean."""
        for seen in self._seen.values():
            seen.neurons = round(seen.neurons / images)
            seen.outputs /= images
            for name in ("events", "additions", "accumulates", "active"):
                setattr(seen, name, getattr(seen, name) / images)
        return counts_of(list(self._seen.values()), images)

    def _of(self, connection: Connection) -> OperationSeen:
        return self._seen.setdefault(connection.node, OperationSeen(connection))


def weights_of(connection: Connection, network: GraphModule) -> int:
    """How many weights an operation has."""
    row = operator_of(connection.node)
    if connection.product or not connection.linear or row is None or not row.weighted:
        return 0
    own = [n for n in connection.node.all_input_nodes if n.op == "get_attr"]
    sizes = [network.get_parameter(str(n.target)).numel() for n in own if _is_parameter(network, n)]
    # The largest is no bias.
    return max(sizes, default=0)


def _is_parameter(network: GraphModule, node: Node) -> bool:
    return str(node.target) in dict(network.named_parameters())


def _events(signals: Sequence[Signal]) -> float:
    return sum(float(s.events.sum()) for s in signals if s.events is not None)


def _size(signal: Signal) -> float:
    leaves = pytree.tree_leaves(next(iter(signal.sums.values()), None))
    return float(sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)))


def _record(neuron: FewSpikesNeuron, fired: Fired) -> Record:
    """Potentials as they come in, and after each step."""
    ticks = [tick for tick, _ in fired.arrived]
    potentials = [v for _, v in fired.arrived]
    v = fired.arrived[-1][1]
    h = neuron.resets.detach().to(v.dtype)
    begin = fired.start + (neuron.gates is not None)
    for t in range(neuron.steps):
        reset = h[t] if fired.interval is None else h[:, t][fired.interval]
        v = v - reset * fired.spikes[t].to(v.dtype)
        ticks.append(begin + t + 1)
        potentials.append(v)
    table = None if fired.interval is None else fired.interval.to(torch.uint8)
    return Record(fired.start, fired.spikes, table, ticks, torch.stack(potentials))


def joined(pieces: Sequence[Record], single: Record, sizes: Sequence[int]) -> Record:
    """Records of several pieces as one, with the images first: spikes ``[K, N, ...]``.

    Args:
        pieces: in the network's own order of axes.
        single: that of the first image alone, which shows where images lie.
        sizes: images of each piece.
    """
    layout = image_layout(list(pieces[0].spikes), list(single.spikes), sizes[0])

    def by_image(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([layout.by_image(tensor) for tensor in tensors])

    spikes = torch.stack([by_image(rows) for rows in zip(*(p.spikes for p in pieces), strict=True)])
    potentials = torch.stack(
        [by_image(rows) for rows in zip(*(p.potentials for p in pieces), strict=True)]
    )
    tables = [p.interval for p in pieces if p.interval is not None]
    interval = by_image(tables) if tables else None
    return Record(single.start, spikes, interval, single.ticks, potentials)
