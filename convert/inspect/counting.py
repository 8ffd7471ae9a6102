"""Counts a network's operations in the fast run: one pass, with each neuron's number of events."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ..calls.batch_layout import Layout
from ..calls.batch_reading import moved, read_by
from ..common.batches import ahead, batches_once
from ..common.progress import Progress
from ..errors import InputError
from ..graph.roles import Shapes
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from .event_sums import Sums, Synapses, Totals
from .fan_out import Target, targets
from .image_places import image_layout
from .layer_quantities import OperationSeen, counts_of
from .operation_counts import OperationCounts
from .spike_recorder import weights_of
from .synapses import Connection, Passage, connections, shapes_of


def count_operations(snn: SpikingModel, data: Any, *, progress: bool = True) -> OperationCounts:
    """Counts every operation that a spiking network does for an image, layer by layer.

    One pass of the fast run: each neuron tells how many events it sent, and each event is counted
    at the synapses that its neuron really has: borders, strides and groups are heeded, and a weight
    of 0 is no synapse. `simulate` finds the same numbers from the masks themselves.

    Args:
        snn: from `to_spiking`; inside `with_steps` its neurons of that K.
        data: batches in any form of calibration data; labels are left out. Read once.
        progress: shows a bar on stderr.

    Raises:
        InputError: for data without images or that the network doesn't take, batches of several
            lengths, or a cut readout.
    """
    if not isinstance(snn, SpikingModel):
        raise InputError(
            f"count_operations takes a converted network, found a {type(snn).__name__}"
        )
    if snn.plan.readout is not None:
        raise InputError("whole neurons are counted; leave the block snn.readout(...)")
    counter = _Counter(snn)
    batches = read_by(batches_once(data, snn.signature.cut_axis), snn.reader())
    total = len(batches) if isinstance(batches, Sized) else None
    training = snn.training
    snn.eval()
    try:
        with torch.no_grad():
            for batch in Progress(ahead(batches), "count", total, shown=progress):
                for part in snn.signature.taken(batch):
                    counter.add(*moved(part, counter.device))
    finally:
        snn.train(training)
    if not counter.images:
        raise InputError("the data yields no image; give at least one batch")
    return counts_of(counter.seen(), counter.images)


class _Counter:
    """Adds up the events of one network, image by image."""

    def __init__(self, snn: SpikingModel) -> None:
        self.snn = snn
        self.device = next((t.device for t in snn.state_dict().values()), torch.device("cpu"))
        plan = snn.plan
        self.network = snn.network if plan.plain else snn.as_planned(plan)
        modules = {site: self.network.get_submodule(path) for site, path in snn.names.items()}
        self.spiking = [s for s, module in modules.items() if isinstance(module, FewSpikesNeuron)]
        # The neurons of every call of a site, and the names of these calls, by the site.
        self.neurons: dict[str, FewSpikesNeuron] = {}
        self.connections = self._connections()
        self.calls: dict[str, list[str]] = {}
        for connection in self.connections.values():
            if connection.passage is Passage.SITE:
                self.neurons[connection.name] = modules[connection.site]  # type: ignore[assignment]
                self.calls.setdefault(connection.site, []).append(connection.name)
        self.images = 0
        self.targets: list[Target] = []
        self.synapses: dict[str, Synapses] = {}
        self.layouts: dict[str, Layout] = {}
        self.totals: list[Totals] = []
        # Of a network that mixes images, or takes no single one, a batch is counted as a whole.
        bounds = snn.signature.bounds
        self.together = snn.signature.whole or (bounds is not None and bounds.smallest > 1)
        self.prepared = 0
        # The lengths that vary, as they were found.
        self.lengths: dict[str, int] = {}

    def add(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Counts one batch."""
        signature = self.snn.signature
        leaves = signature.flatten(args, kwargs)
        size, lengths = signature.images(leaves), signature.lengths(leaves)
        if not size:
            return
        if self.totals and lengths != self.lengths:
            found = ", ".join(f"{name} {n} and {self.lengths[name]}" for name, n in lengths.items())
            raise InputError(
                f"the batches have different lengths ({found}), and an image of each costs another "
                "number of operations; count batches of one length at a time"
            )
        self.lengths = lengths
        if not self.totals or (self.together and size != self.prepared):
            self._prepare(args, kwargs, size)
        totals = Totals.empty(len(self.targets), list(self.neurons), 1 if self.together else size)

        def told(site: str, tally: Tensor) -> None:
            totals.add(site, self.synapses[site], self._by_image(site, tally))

        self._run(args, kwargs, told)
        totals.read()
        self.totals.append(totals)
        self.images += size

    def _connections(self, single: Shapes | None = None) -> dict[Node, Connection]:
        return connections(self.network, {self.snn.names[s]: s for s in self.spiking}, single)

    def _run(self, args: Any, kwargs: Any, told: Callable[[str, Tensor], None]) -> None:
        """Runs the network; tells the name of every call of a site, and its events."""
        calls = {site: iter(names) for site, names in self.calls.items()}

        def by_call(site: str, tally: Tensor) -> None:
            told(next(calls[site]), tally)

        with self.snn.tally_spikes(by_call), self.snn.running(check_inputs=False):
            self.snn(*args, **kwargs)

    def _by_image(self, site: str, tally: Tensor) -> Tensor:
        """Events as ``[N, neurons]`` in the order of the site's synapses."""
        if self.together:
            return tally.reshape(1, -1)
        rows = self.layouts[site].by_image(tally)
        if rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last):
            rows = rows.permute(0, 2, 3, 1)
        return rows.reshape(len(rows), -1)

    def _prepare(self, args: Any, kwargs: Any, size: int) -> None:
        """Finds the synapses of every neuron, and where the images lie at every site."""
        signature = self.snn.signature
        call = (args, kwargs)
        # A few images show where images lie.
        few, one = (call, call) if self.together else (signature.first(call, n) for n in (3, 1))
        many: dict[str, Tensor] = {}
        single: dict[str, Tensor] = {}
        self._run(few[0], few[1], many.__setitem__)
        self._run(one[0], one[1], single.__setitem__)
        leaves = signature.flatten(*one)
        if self.lengths:
            self.connections = self._connections(shapes_of(self.network, leaves))
        self.targets = targets(self.network, self.connections, leaves)
        self.prepared = size
        for site in self.neurons:
            self.layouts[site] = image_layout([many[site]], [single[site]], 3)
            rows = {
                i: self._ordered(site, target.fan_out[site], many[site])
                for i, target in enumerate(self.targets)
                if site in target.fan_out
            }
            tally = single[site]
            self.synapses[site] = Synapses(
                list(rows), list(rows.values()), tally.numel(), tally.device
            )

    def _ordered(self, site: str, row: Tensor, tally: Tensor) -> Tensor:
        """Numbers of one image's neurons, in the order in which tallies are read."""
        if self.together:
            return row.reshape(-1)
        layout = self.layouts[site]
        alone = Layout(layout.axis, 1, layout.rows)
        row = alone.by_image(row)
        rows = layout.by_image(tally)
        if rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last):
            row = row.permute(0, 2, 3, 1)
        return row.reshape(-1)

    def seen(self) -> list[OperationSeen]:
        """Everything that was counted."""
        trains = {site: _trains(neuron) for site, neuron in self.neurons.items()}
        images = self.prepared if self.together else 1
        found = []
        for i, target in enumerate(self.targets):
            connection = target.connection
            one = OperationSeen(connection, target.inputs, outputs=target.outputs / images)
            one.weights = weights_of(connection, self.network)
            arrived = self._numbers([totals.arrived[i] for totals in self.totals])
            if target.weights:
                one.trains = sum(trains[site] for site in target.sites)
                one.accumulates = arrived
                one.active = self._numbers([totals.active[i] for totals in self.totals])
            else:
                one.additions = arrived
            if connection.passage is Passage.SITE:
                neuron = self.neurons[connection.name]
                one.neurons = round(target.outputs / images)
                one.steps, one.intervals = neuron.steps, neuron.intervals
                one.events = self._numbers([t.events[connection.name] for t in self.totals])
            found.append(one)
        return found

    def _numbers(self, batches: list[Sums]) -> Sums:
        """One for each image; their mean where batches must not be cut."""
        joined = np.concatenate(batches)
        return joined.sum(keepdims=True) / self.images if self.together else joined


def _trains(neuron: FewSpikesNeuron) -> int:
    """Steps and intervals of a neuron in which it can send an event."""
    constants = 0 if neuron.gates is None else int((neuron.offset != 0).sum())
    return neuron.steps * neuron.intervals + constants
