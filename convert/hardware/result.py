"""A network in whole numbers: called like the network it came from, with a report and files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule

from ..common.tables import table
from ..inspect.simulation import outputs_of
from ..network.model import SpikingModel
from .correcting import Corrections
from .neurons import WholeNeuron
from .records import Layer, Op
from .running import Told, WholeRun

# Images that pass together.
_PIECE = 32


@dataclass(frozen=True)
class SiteLoss:
    """Mean squared errors of one site's neuron on what calibration saw.

    Args:
        free: of the network's own.
        whole: of the one with whole output weights.
        rounded: of the first with its weights rounded and nothing fitted.
    """

    free: float
    whole: float
    rounded: float


@dataclass(frozen=True)
class Summary:
    """What was done.

    Args:
        weight_bits, state_bits, weights: as asked for.
        sites: by name.
        corrections: of biases and thresholds.
        pixels: whether images are read as whole pixels.
        steps: K.
    """

    weight_bits: int
    state_bits: int
    weights: str
    sites: Mapping[str, SiteLoss]
    corrections: Corrections
    pixels: bool
    steps: int


class QuantisedModel:
    """A network in whole numbers; a call is its simulation, exact to the bit.

    Args:
        network: the graph.
        snn: the network that it came from.
        layers: in order.
        neurons: by the path of their module.
        summary: what was done.
    """

    def __init__(
        self,
        network: GraphModule,
        snn: SpikingModel,
        layers: Sequence[Layer],
        neurons: Mapping[str, WholeNeuron],
        summary: Summary,
    ) -> None:
        self.network, self.snn, self.summary = network, snn, summary
        self.layers, self.neurons = list(layers), dict(neurons)
        self._run = WholeRun(network, layers, neurons)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs in the form in which the original model returned them, decoded.

        Raises:
            InputError: for inputs that the network doesn't take, or NaN.
        """
        return self.run(args, kwargs)

    def run(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], told: Told | None = None
    ) -> Any:
        """The same, with a function that is told every layer's integers.

        Args:
            args, kwargs: inputs.
            told: called with every layer in whole numbers, the integers that it reads, and its
                result, int64; several times where many images are given.
        """
        signature = self.snn.signature
        leaves = signature.flatten(tuple(args), dict(kwargs))
        count = signature.images(leaves)
        pieces = signature.pieces(leaves, -(-count // _PIECE)) if count > _PIECE else [leaves]
        with torch.no_grad():
            found = [self._run(piece, told) for piece in pieces]
        return signature.unflatten(outputs_of(self.snn, found))

    @property
    def left(self) -> list[Layer]:
        """Operations that stay floating point."""
        return [layer for layer in self.layers if layer.op is Op.FLOAT]

    @property
    def multiplying(self) -> list[Layer]:
        """Layers that take a value into another unit by a multiplier; the others shift."""
        return [
            layer
            for layer in self.layers
            if any(r.rescale is not None and r.rescale.multiplier != 1 for r in layer.reads)
        ]

    def __str__(self) -> str:
        summary = self.summary
        rows = [
            [name, f"{loss.free:.3g}", f"{loss.whole:.3g}", f"{loss.rounded:.3g}"]
            for name, loss in summary.sites.items()
        ]
        parts = [
            f"{len(self.layers) - len(self.left)} of {len(self.layers)} operations in whole numbers: "
            f"{summary.weight_bits}-bit weights, {summary.state_bits}-bit potentials, 32-bit "
            f"accumulators, spikes weighted by {_WORDS[summary.weights]}",
            table(["site", "MSE before", "whole", "rounded only"], rows),
        ]
        if self.left:
            names = dict.fromkeys(f"{layer.node.name} ({layer.name})" for layer in self.left)
            parts.append(
                f"Left in floating point, {len(self.left)} operations: {', '.join(names)}"
            )
        parts += [f"{layer.name}: {layer.note}" for layer in self.layers if layer.note]
        if self.multiplying:
            names = dict.fromkeys(layer.name for layer in self.multiplying)
            parts.append(f"Taken into another unit by a multiplier: {', '.join(names)}")
        found = summary.corrections
        if found.images:
            parts.append(
                f"Relative output error on {found.images} calibration images: {found.before:.3g}, "
                f"with the layers' mean errors in their biases {found.after:.3g}"
                + ("" if found.kept else " (left out)")
            )
        else:
            parts.append("No data: biases are rounded, and no mean error was taken out")
        return "\n\n".join(parts)

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Writes ``network.json``, ``network.npz`` and ``reference.c``; see ``docs/hardware.md``.

        Args:
            folder: made if it isn't there.

        Returns:
            The paths of the files.

        Raises:
            InputError: if one can't be written.
        """
        from .files import write

        return write(self, folder)


_WORDS = {"power-of-two": "powers of two", "integer": "integers"}
