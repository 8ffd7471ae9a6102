"""All of a network in whole numbers: layers, integers, and what was done to make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.fx import GraphModule

from .correcting import Corrections
from .neurons import WholeNeuron
from .records import Layer


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


@dataclass(frozen=True)
class WholeNetwork:
    """A network in whole numbers.

    Args:
        network: the graph.
        layers: its operations on signals, in order.
        neurons: by the path of their module.
        summary: what was done.
    """

    network: GraphModule
    layers: Sequence[Layer]
    neurons: Mapping[str, WholeNeuron]
    summary: Summary
