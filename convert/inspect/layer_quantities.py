"""How what was counted at one operation becomes all the quantities that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .operation_counts import LayerCounts, OperationCounts, Quantity
from .synapses import Connection, Passage

Numbers = npt.NDArray[np.float64]
# One number for each image, or one for all.
Count = Numbers | float


@dataclass
class OperationSeen:
    """What was counted at one operation of the graph, for each image or in the mean.

    Args:
        connection: the operation.
        inputs: ``spikes``, ``analog``, or ``sums``; empty for a site.
        neurons: of a site, for one image.
        steps, intervals: K and G of a site's neurons.
        trains: steps and intervals of all sites that send events to these weights.
        outputs: values that it makes for one image.
        weights: how many weights it has.
        events: that a site sends.
        additions: events that come without weights, and are added up.
        accumulates: events times the synapses that they reach.
        active: multiply-accumulates whose input comes from a neuron that sends an event.
    """

    connection: Connection
    inputs: str = ""
    neurons: int = 0
    steps: int = 0
    intervals: int = 1
    trains: int = 0
    outputs: float = 0.0
    weights: int = 0
    events: Count = 0.0
    additions: Count = 0.0
    accumulates: Count = 0.0
    active: Count = 0.0

    @property
    def costs(self) -> bool:
        """Whether there is anything to tell of it."""
        return bool(
            self.neurons
            or self.connection.multiply_accumulates
            or np.any(self.additions)
            or np.any(self.accumulates)
        )

    def quantities(self) -> dict[Quantity, Count]:
        """Everything that it stands for."""
        if self.connection.passage is Passage.SITE:
            return self._of_site()
        return self._of_weights() if self.inputs == "spikes" else self._of_values()

    def _of_site(self) -> dict[Quantity, Count]:
        """Each step compares; an event is a subtraction, or the constant of an interval."""
        looks = self.steps + (self.intervals > 1)
        return {
            Quantity.EVENTS: self.events,
            Quantity.ADDITIONS: self.additions,
            Quantity.NEURON_UPDATES: self.neurons * (self.steps + self.intervals - 1) + self.events,
            Quantity.STATE_READS: self.additions + self.neurons * looks,
            Quantity.STATE_WRITES: self.additions + self.events,
        }

    def _of_weights(self) -> dict[Quantity, Count]:
        """Each sum of a train is read, multiplied by d, and added to a potential."""
        scalings = self.trains * self.outputs
        return {
            Quantity.ACCUMULATES: self.accumulates,
            Quantity.SCALINGS: scalings,
            Quantity.WEIGHT_READS: self.accumulates,
            Quantity.STATE_READS: self.accumulates + 2 * scalings,
            Quantity.STATE_WRITES: self.accumulates + 2 * scalings,
            Quantity.DENSE_MULTIPLY_ACCUMULATES: self.connection.multiply_accumulates,
            Quantity.ACTIVE_MULTIPLY_ACCUMULATES: self.active,
            Quantity.DENSE_VALUES: self.outputs,
        }

    def _of_values(self) -> dict[Quantity, Count]:
        """A multiply-accumulate reads a weight and a value, or two values."""
        operations, product = self.connection.multiply_accumulates, self.connection.product
        outputs = self.outputs if operations else 0.0
        return {
            Quantity.ADDITIONS: self.additions,
            Quantity.MULTIPLY_ACCUMULATES: operations,
            Quantity.WEIGHT_READS: 0 if product else operations,
            Quantity.STATE_READS: operations * (2 if product else 1) + self.additions,
            Quantity.STATE_WRITES: outputs + self.additions,
            Quantity.DENSE_MULTIPLY_ACCUMULATES: operations,
            Quantity.ACTIVE_MULTIPLY_ACCUMULATES: operations,
            Quantity.DENSE_VALUES: outputs,
        }


def counts_of(seen: Sequence[OperationSeen], images: int) -> OperationCounts:
    """A network's counts.

    Args:
        seen: every operation, in graph order.
        images: how many were counted.
    """
    rows = _rows([one for one in seen if one.costs])
    layers = [_layer(row) for row in rows]
    total: dict[Quantity, Any] = {}
    for one in seen:
        for quantity, count in one.quantities().items():
            total[quantity] = total.get(quantity, 0.0) + np.asarray(count, dtype=np.float64)
    left: dict[str, int] = {}
    for one in seen:
        unpriced = one.connection.passage is Passage.DECODED and not one.connection.product
        if unpriced and not one.connection.multiply_accumulates:
            left[one.connection.op] = left.get(one.connection.op, 0) + 1
    mean: dict[str, float] = {q: float(np.mean(count)) for q, count in total.items()}
    active = str(Quantity.ACTIVE_MULTIPLY_ACCUMULATES)
    mean[active] = sum(layer[active] for layer in layers)
    return OperationCounts(
        layers,
        images,
        mean,
        _spread(total),
        neurons=sum(max(one.neurons for one in row) for row in rows),
        steps=max((one.steps for one in seen), default=0),
        gates=max((one.intervals for one in seen), default=1) - 1,
        not_counted=left,
        weights=sum(max(one.weights for one in row) for row in rows),
    )


def _rows(seen: Sequence[OperationSeen]) -> list[list[OperationSeen]]:
    """What becomes one row: in a network with a recurrent layer, one place at all time steps."""
    sites = [one.connection.site for one in seen if one.connection.site]
    if len(set(sites)) == len(sites):
        return [[one] for one in seen]
    rows: dict[tuple[object, ...], list[OperationSeen]] = {}
    for one in seen:
        connection = one.connection
        tensors = tuple(n.target for n in connection.node.all_input_nodes if n.op == "get_attr")
        place = connection.site or connection.name, connection.op, one.inputs, *tensors
        rows.setdefault(place, []).append(one)
    return list(rows.values())


def _layer(row: Sequence[OperationSeen]) -> LayerCounts:
    seen, quantities = row[0], _together(row)
    mean: dict[str, float] = {q: float(np.mean(count)) for q, count in quantities.items()}
    # A pooling before the weights makes one value of several neurons.
    most = mean.get(Quantity.DENSE_MULTIPLY_ACCUMULATES, 0.0)
    active = str(Quantity.ACTIVE_MULTIPLY_ACCUMULATES)
    mean |= {active: min(mean[active], most)} if active in mean else {}
    op = "neurons" if seen.connection.passage is Passage.SITE else seen.connection.op
    return LayerCounts(seen.connection.name, op, seen.inputs, mean, _spread(quantities))


def _spread(counts: Mapping[Quantity, Count]) -> dict[str, float]:
    """Standard deviations over the images, of what is known for more than one of them."""
    return {str(q): float(np.std(count)) for q, count in counts.items() if np.size(count) > 1}


def _together(row: Sequence[OperationSeen]) -> dict[Quantity, Count]:
    """The quantities of one place, at all time steps."""
    total: dict[Quantity, Count] = {}
    for one in row:
        for quantity, count in one.quantities().items():
            total[quantity] = total[quantity] + count if quantity in total else count
    return total
