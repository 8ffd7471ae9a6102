"""Counts a network's operations in the fast run: one pass, with each neuron's number of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from ..calls.batch_layout import Layout, resized
from ..calls.batch_reading import moved, read_by
from ..common.batches import ahead, batches_once
from ..common.progress import Progress
from ..errors import InputError
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from .fan_out import Target, targets
from .image_places import image_layout
from .layer_quantities import OperationSeen, counts_of
from .operation_counts import OperationCounts
from .spike_recorder import weights_of
from .synapses import Passage, connections


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
        InputError: for data without images or that the network doesn't take, or a cut readout.
    """
    if not isinstance(snn, SpikingModel):
        raise InputError(f"count_operations takes a converted network, found a {type(snn).__name__}")
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
        modules = {p: self.network.get_submodule(p) for p in snn.names.values()}
        self.neurons: dict[str, FewSpikesNeuron] = {
            site: modules[path]  # type: ignore[misc]
            for site, path in snn.names.items()
            if isinstance(modules[path], FewSpikesNeuron)
        }
        sites = {snn.names[site]: site for site in self.neurons}
        self.connections = connections(self.network, sites)
        self.images = 0
        self.targets: list[Target] = []
        # By site: for each target that it reaches, and for its own events, a row of numbers.
        self.fan_out: dict[str, Tensor] = {}
        self.layouts: dict[str, Layout] = {}
        # By target, or site, one number for each image.
        self.arrived: dict[int, list[np.ndarray[Any, Any]]] = {}
        self.active: dict[int, list[np.ndarray[Any, Any]]] = {}
        self.events: dict[str, list[np.ndarray[Any, Any]]] = {}

    def add(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Counts one batch."""
        leaves = self.snn.signature.flatten(args, kwargs)
        size = self.snn.signature.images(leaves)
        if not size:
            return
        if not self.targets:
            self._prepare(leaves, size)
        arrived: dict[int, Any] = {}
        active: dict[int, Any] = {}

        def told(site: str, tally: Tensor) -> None:
            self._tally(site, tally, size, arrived, active)

        with self.snn.tally_spikes(told), self.snn.running(check_inputs=False):
            self.snn(*args, **kwargs)
        for kept, found in ((self.arrived, arrived), (self.active, active)):
            for index, numbers in found.items():
                kept.setdefault(index, []).append(numbers)
        self.images += size
