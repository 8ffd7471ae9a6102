"""What a site's neurons cost the whole network, for every size that they may have.

Everything is linear: a site costs its updates, its share of the multiplications by d, and its
events at each synapse. So the cost of a network is the sum over its sites of what each would cost
alone, and what costs the same whatever the neurons are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.fx import GraphModule

from ..assembly.calibrated import Calibrated
from ..errors import CalibrationError
from ..network.settings import Automatic
from .energy import usual_energy
from .fan_out import Target, targets
from .layer_quantities import Count, OperationSeen
from .operation_counts import OperationCounts, Quantity
from .spike_recorder import weights_of
from .synapses import Passage, connections


class SizeCosts:
    """Costs of one image by site and size.

    Events are taken to come from all neurons of a site alike.

    Args:
        network: a graph that calls its sites as modules, with exact functions or neurons.
        sites: name of each site by the path of its module.
        leaves: flat inputs.
        images: how many they hold.
        energy: whether costs are nanojoules (45 nm, float32, with memory, the usual constants);
            else operations.
    """

    def __init__(
        self,
        network: GraphModule,
        sites: Mapping[str, str],
        leaves: Sequence[Any],
        images: int,
        *,
        energy: bool,
    ) -> None:
        found = connections(network, sites)
        self.unit = "nJ" if energy else "operations"
        self._images = images
        self._targets = targets(network, found, leaves)
        # A gate of a recurrent layer is called at every time step.
        self._sites: dict[str, list[Target]] = {}
        for target in filter(_is_site, self._targets):
            self._sites.setdefault(target.connection.site, []).append(target)
        weights = sum(weights_of(t.connection, network) for t in self._targets)
        neurons = round(sum(calls[0].outputs for calls in self._sites.values()) / images)
        price = usual_energy(weights, neurons) if energy else _operations
        self._price: Callable[[OperationCounts], float] = price

    @property
    def fixed(self) -> float:
        """Cost of what doesn't depend on the neurons."""
        values = [t for t in self._targets if not (t.weights or _is_site(t))]
        return self._cost(
            OperationSeen(t.connection, t.inputs, outputs=t.outputs / self._images).quantities()
            for t in values
        )

    def spent(self, site: str, *, steps: int, intervals: int, trains: int, events: float) -> float:
        """Cost of one site.

        Args:
            site: its name.
            steps, intervals: K and G of its neurons.
            trains: steps and intervals in which they send events.
            events: of one neuron for one of its inputs.
        """
        parts = []
        for own in self._sites[site]:
            neurons = own.outputs / self._images
            seen = OperationSeen(own.connection, neurons=round(neurons))
            seen.steps, seen.intervals, seen.events = steps, intervals, events * neurons
            parts.append(seen.quantities())
            parts += self._arriving(own.connection.name, trains, events * neurons)
        return self._cost(parts)

    def _arriving(self, call: str, trains: int, sent: float) -> Iterator[dict[Quantity, Count]]:
        """What the events of one call of a site cost behind it."""
        for target in self._targets:
            fan_out = target.fan_out.get(call)
            if fan_out is None:
                continue
            arrived = sent * float(fan_out.mean())
            if target.weights:
                seen = OperationSeen(target.connection, "spikes", trains=trains)
                seen.outputs, seen.accumulates = target.outputs / self._images, arrived
                yield seen.quantities()
            else:
                added = (Quantity.ADDITIONS, Quantity.STATE_READS, Quantity.STATE_WRITES)
                yield dict.fromkeys(added, arrived)

    def _cost(self, parts: Any) -> float:
        total: dict[str, float] = {}
        for quantities in parts:
            for quantity, count in quantities.items():
                total[quantity] = total.get(quantity, 0.0) + _number(count)
        return self._price(OperationCounts([], 1, total, {}, neurons=1, steps=1))


def costs_of(source: Calibrated, wanted: Automatic | None) -> SizeCosts | None:
    """The costs of a network's sites, where they have a budget.

    Args:
        source: the network before its neurons.
        wanted: how K is chosen.

    Raises:
        CalibrationError: without calibration data.
    """
    if wanted is None or not wanted.counts_costs:
        return None
    if source.batches is None:
        raise CalibrationError(
            "budget_operations and budget_energy count synapses with an image; give calibration "
            "data"
        )
    captured, bounds = source.captured, source.captured.signature.bounds
    signature = captured.signature
    for batch in source.batches:
        call = signature.split(batch, source.device)
        given = signature.flatten(*call)
        if not (images := signature.images(given)):
            continue
        if not signature.whole and (bounds is None or bounds.smallest <= 1):
            given = signature.flatten(*signature.first(call, 1))
            images = 1
        names = {site.module: site.name for site in source.sites}
        energy = wanted.budget_energy is not None
        return SizeCosts(captured.graph_module, names, given, images, energy=energy)
    raise CalibrationError("the calibration data yields no image; give at least one batch")


def _is_site(target: Target) -> bool:
    return target.connection.passage is Passage.SITE


def _number(count: Count) -> float:
    return float(np.mean(count))


def _operations(counts: OperationCounts) -> float:
    return counts.operations
