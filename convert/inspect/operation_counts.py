"""What a spiking network's operations are, counted: a value, with no way to count in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..common.tables import table


class Quantity(StrEnum):
    """What is counted, for one image; equal to its plain word."""

    # Events that a site sends: spikes, and the constants of a gated neuron's intervals that
    # aren't 0.
    EVENTS = "events"
    # A weight added to a sum, because an event came over its synapse. A weight of 0 is no synapse.
    ACCUMULATES = "accumulates"
    # An event added to a sum without a weight: over a skip connection or a pooling.
    ADDITIONS = "additions"
    # A sum of one step and interval multiplied by its d, and added to what receives it.
    SCALINGS = "scalings"
    # On values that are no spikes: the image, products, and sums that weights made.
    MULTIPLY_ACCUMULATES = "multiply_accumulates"
    # Inside neurons: comparisons with thresholds and gates, and subtractions at a spike.
    NEURON_UPDATES = "neuron_updates"
    WEIGHT_READS = "weight_reads"
    # Sums, membrane potentials and analog values.
    STATE_READS = "state_reads"
    STATE_WRITES = "state_writes"
    # Of the original network, on the same layer.
    DENSE_MULTIPLY_ACCUMULATES = "dense_multiply_accumulates"
    # Those of them whose input comes from a neuron that sends an event, or is no spike: what a
    # machine that skips zeros does.
    ACTIVE_MULTIPLY_ACCUMULATES = "active_multiply_accumulates"
    # Values that the original network's layer writes.
    DENSE_VALUES = "dense_values"


QUANTITIES = tuple(Quantity)
# Those that compute; the others are traffic, or the original's.
OPERATIONS = (
    Quantity.ACCUMULATES,
    Quantity.ADDITIONS,
    Quantity.SCALINGS,
    Quantity.MULTIPLY_ACCUMULATES,
    Quantity.NEURON_UPDATES,
)


@dataclass(frozen=True)
class LayerCounts:
    """What one operation of the graph costs for one image.

    Args:
        name: of a site, or where the operation is called in the model.
        op: ``neurons``, or the operation.
        inputs: ``spikes``, ``analog``, or ``sums`` of weights with no neuron behind them; empty
            for neurons.
        mean: mean over the images, by quantity; what is left out is 0.
        spread: standard deviation over the images, by quantity.
    """

    name: str
    op: str
    inputs: str
    mean: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, quantity: str) -> float:
        return self.mean.get(Quantity(quantity), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """All quantities, and ``spread`` of those that vary, in JSON's types."""
        return {
            "name": self.name,
            "op": self.op,
            "inputs": self.inputs,
            **{str(q): self[q] for q in QUANTITIES},
            "spread": {str(q): v for q, v in self.spread.items() if v},
        }


@dataclass(frozen=True)
class OperationCounts:
    """What a network costs for one image; prints as a table.

    Args:
        layers: sites, weight layers, products and sums, in graph order.
        images: how many were counted.
        mean, spread: of the whole network, over the images, by quantity.
        neurons: of all sites, for one image.
        steps: the most time steps of any neuron.
        gates: the most gates of any neuron.
        not_counted: operations that cost something and aren't in the quantities (norms, maxima),
            with how often the graph calls them.
        weights: how many numbers the layers' weights have; None where nobody counted them.
    """

    layers: Sequence[LayerCounts]
    images: int
    mean: Mapping[str, float]
    spread: Mapping[str, float]
    neurons: int
    steps: int
    gates: int = 0
    not_counted: Mapping[str, int] = field(default_factory=dict)
    weights: int | None = None

    def __getitem__(self, quantity: str) -> float:
        return self.mean.get(Quantity(quantity), 0.0)

    @property
    def spikes_per_neuron(self) -> float:
        """Events of one image over the number of neurons."""
        return self[Quantity.EVENTS] / max(self.neurons, 1)

    @property
    def operations(self) -> float:
        """All that is computed for one image: additions, multiplications and neuron updates."""
        return sum(self[quantity] for quantity in OPERATIONS)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        return {
            "images": self.images,
            "steps": self.steps,
            "gates": self.gates,
            "neurons": self.neurons,
            "weights": self.weights,
            "spikes_per_neuron": self.spikes_per_neuron,
            "operations": self.operations,
            "per_image": {str(q): self[q] for q in QUANTITIES},
            "spread": {str(q): v for q, v in self.spread.items() if v},
            "layers": [layer.to_dict() for layer in self.layers],
            "not_counted": dict(self.not_counted),
        }

    def __str__(self) -> str:
        shown = (
            Quantity.EVENTS,
            Quantity.ACCUMULATES,
            Quantity.MULTIPLY_ACCUMULATES,
            Quantity.SCALINGS,
            Quantity.DENSE_MULTIPLY_ACCUMULATES,
        )
        head = ("layer", "what", "inputs", *(q.replace("_", " ") for q in shown))
        rows = [
            (layer.name, layer.op, layer.inputs, *(_figure(layer[q]) for q in shown))
            for layer in self.layers
        ]
        rows.append(("all", "", "", *(_figure(self[q]) for q in shown)))
        text = table(head, rows)
        text += f"\n\nFor one image, mean of {self.images}"
        if (spread := self.spread.get(Quantity.ACCUMULATES)) is not None:
            text += f"; accumulates vary by {spread:.0f} (one standard deviation)"
        text += f". {self.spikes_per_neuron:.2f} events per neuron."
        if self.not_counted:
            left = ", ".join(f"{count} {op}" for op, count in self.not_counted.items())
            text += f" Not counted: {left}."
        return text


def _figure(value: float) -> int | None:
    """A number in a table; nothing for 0."""
    return round(value) or None
