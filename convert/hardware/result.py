"""A network in whole numbers: called like the network it came from, with a report and files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..common.tables import table
from ..graph.operators import operator_of
from ..inspect.simulation import outputs_of
from ..network.model import SpikingModel
from .files import write
from .records import Layer, Op
from .running import Told, WholeRun
from .whole_network import WholeNetwork

# Images that pass together.
_PIECE = 32


class QuantisedModel:
    """A network in whole numbers; a call is its simulation, exact to the bit.

    Args:
        whole: its layers and integers.
        snn: the network that it came from.
    """

    def __init__(self, whole: WholeNetwork, snn: SpikingModel) -> None:
        self.whole, self.snn, self.summary = whole, snn, whole.summary
        self.layers, self.neurons = whole.layers, whole.neurons
        self._run = WholeRun(whole.network, whole.layers, whole.neurons)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs in the form in which the original model returned them, decoded.

        Raises:
            InputError: for inputs that the network doesn't take, or NaN.
        """
        return self.run(args, kwargs)

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], told: Told | None = None) -> Any:
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
        """Operations that compute in floating point; those that only move values aren't counted."""
        floats = (layer for layer in self.layers if layer.op is Op.FLOAT)
        return [layer for layer in floats if not (r := operator_of(layer.node)) or not r.layout]

    @property
    def multiplying(self) -> list[Layer]:
        """Layers that take a value into another unit by a multiplier; the others shift."""
        return [
            layer
            for layer in self.layers
            if any(r.rescale is not None and r.rescale.multiplier != 1 for r in layer.reads)
        ]

    @property
    def analog(self) -> list[Layer]:
        """Layers whose weights are multiplied by values that are no spikes, as those of images."""
        weighted = (layer for layer in self.layers if layer.op in (Op.WEIGHTS, Op.SCALE))
        return [
            layer for layer in weighted if not all(r.form and r.form.spikes for r in layer.reads)
        ]

    def __str__(self) -> str:
        summary = self.summary
        rows = [
            [name, f"{loss.free:.3g}", f"{loss.whole:.3g}", f"{loss.rounded:.3g}"]
            for name, loss in summary.sites.items()
        ]
        parts = [
            f"{len(self.layers) - len(self.left)} of {len(self.layers)} operations in whole "
            f"numbers: {summary.weight_bits}-bit weights, {summary.state_bits}-bit potentials, "
            f"32-bit accumulators, spikes weighted by {_WORDS[summary.weights]}",
            table(["site", "MSE before", "whole", "rounded only"], rows),
        ]
        if self.left:
            names = dict.fromkeys(f"{layer.node.name} ({layer.name})" for layer in self.left)
            parts.append(f"Left in floating point, {len(self.left)} operations: {', '.join(names)}")
        parts += [f"{layer.name}: {layer.note}" for layer in self.layers if layer.note]
        if self.analog:
            names = dict.fromkeys(layer.name for layer in self.analog)
            parts.append(f"Weights on values that are no spikes, multiplied: {', '.join(names)}")
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
        return write(self.whole, folder)


_WORDS = {"power-of-two": "powers of two", "integer": "integers"}
