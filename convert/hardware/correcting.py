"""Mean errors of a network that became whole, taken into its biases on calibration data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..assembly.bias_correction import measure, stretched
from ..assembly.biased_layers import Layer, value_at
from ..assembly.side_by_side import Sample
from ..neuron.few_spikes import FewSpikesNeuron


@dataclass(frozen=True)
class Corrections:
    """What was measured.

    Args:
        biases: of layers, by path; empty where nothing was kept.
        factors: what a site's input is multiplied with, by the path of its neuron.
        before, after: relative error of the outputs; infinite before where nothing was measured.
        images: on which that was measured.
        kept: whether the error falls.
    """

    biases: dict[str, Tensor] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    before: float = float("nan")
    after: float = float("nan")
    images: int = 0
    kept: bool = False


def corrections(
    sample: Sample,
    layers: Sequence[Layer],
    neurons: Mapping[str, FewSpikesNeuron],
    tensors: Mapping[str, Tensor],
    *,
    progress: bool = False,
) -> Corrections:
    """Takes every layer's mean error into its bias, where that lowers the outputs' error.

    Args:
        sample: the network with the weights that were trained, and calibration images.
        layers: what has a bias.
        neurons: with whole output weights, by path.
        tensors: the weights that integers stand for, by path.
        progress: shows a bar on stderr.
    """
    if not layers or sample.images < 2:
        return Corrections()
    found = measure(sample, layers, neurons, tensors=tensors, progress=progress)
    network = sample.network
    biases = {path: value_at(network, path) + shift for path, shift in found.shifts.items()}
    before, after, images = found.before, found.after, sample.images
    if sample.others:
        # On images that it was not measured on.
        moved = dict(neurons)
        for path, factor in found.stretches.items():
            moved[path] = stretched(copy.deepcopy(neurons[path]), factor)
        before = sample.error_on_others(neurons, tensors)
        after = sample.error_on_others(moved, {**tensors, **biases})
        images = sample.other_images
    if not after < before:
        return Corrections(before=before, after=after, images=images)
    return Corrections(biases, dict(found.stretches), before, after, images, True)
