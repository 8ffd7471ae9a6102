"""Takes out what the conversion of the sites adds to every layer's output on average.

In graph order, on the calibration data: each layer's mean error, channel by channel, goes into its
bias with the opposite sign (bias correction: Nagel et al. 2019, arXiv 1906.04721, section 4.2), and
a neuron's thresholds and resets follow the spread of what now reaches it, which few steps narrow.
What comes later is measured behind what was corrected before. One pass over the data for every K.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..common.devices import apart
from ..common.fingerprints import of_network
from ..common.kept_stages import Stages
from ..common.progress import Progress
from ..graph.run import Modules, compute
from ..network.bias_shifts import Corrections
from ..network.model import SpikingModel
from ..network.report import Correction
from ..neuron.few_spikes import FewSpikesNeuron
from .biased_layers import Layer, find_layers, value_at
from .side_by_side import Sample, called, leaves

# Neurons by their path in the network.
Neurons = Mapping[str, FewSpikesNeuron]
# The values of nodes, for every piece of the sample.
Values = dict[Node, list[Any]]

# A neuron's input is never stretched or shrunk by more than this.
_STRETCH = 2.0


@dataclass(frozen=True)
class Corrected:
    """What was measured for one K.

    Args:
        shifts: what the bias of a layer takes, by its path.
        stretches: what a site's input is multiplied with, by the path of its neuron.
        before, after: relative error of the network's outputs on these images.
    """

    shifts: dict[str, Tensor]
    stretches: dict[str, float]
    before: float
    after: float


def correct(
    snn: SpikingModel, sample: Sample, *, stages: Stages | None = None, progress: bool = False
) -> list[Correction]:
    """Corrects a network for each of its K where that helps, and says what was done.

    Args:
        snn: a converted network without corrections; changed in place.
        sample: calibration images, which run through its graph.
        stages: where what is found for a K is kept; they say what the network and the images are.
        progress: shows a bar on stderr.
    """
    network, own = snn.network, snn.fitted_as
    layers = find_layers(network, {path: name for name, path in snn.names.items()})
    if not layers or sample.images < 2:
        return []
    trained = {layer.bias: value_at(network, layer.bias) for layer in layers}
    snn.corrections = Corrections({layer.bias: layer.sites for layer in layers}, trained)
    rows = []
    for k in (own, *map(int, snn.refitted)):
        neurons = neurons_of(snn, k)
        found, row = (stages or Stages()).once(
            f"corrections {k}",
            partial(_found, k, sample, layers, neurons, progress),
            (Corrected, Correction),
            partial(_facts, neurons),
        )
        if row.kept:
            snn.corrections.add(k, found.shifts)
            for path, factor in found.stretches.items():
                stretched(neurons[path], factor)
        rows.append(row)
    snn.corrections.put(network, own)
    return rows


def _found(
    k: int, sample: Sample, layers: Sequence[Layer], neurons: Neurons, progress: bool
) -> tuple[Corrected, Correction]:
    """What is measured for one K, and whether it is used."""
    found = measure(sample, layers, neurons, progress=progress)
    return found, _judged(k, found, sample, neurons)


def _facts(neurons: Neurons) -> dict[str, str]:
    return {"the neurons": of_network(nn.ModuleList(neurons.values()))}


def _judged(k: int, found: Corrected, sample: Sample, neurons: Neurons) -> Correction:
    """Whether a correction helps: on images that it was not measured on, where there are any."""
    layers, helps = len(found.shifts), found.after < found.before
    if not helps or not sample.others:
        return Correction(k, layers, sample.images, found.before, found.after, helps)
    changed = dict(neurons)
    for path, factor in found.stretches.items():
        changed[path] = stretched(copy.deepcopy(neurons[path]), factor)
    biases = {path: value_at(sample.network, path) + by for path, by in found.shifts.items()}
    before = sample.error_on_others(neurons)
    after = sample.error_on_others(changed, biases)
    return Correction(k, layers, sample.other_images, before, after, after < before)


def neurons_of(snn: SpikingModel, k: int) -> Neurons:
    """The network's neurons for one of its K: those in it, or those kept beside it."""
    found = {}
    for path in snn.names.values():
        beside = f"{k}.{path.rpartition('.')[2]}"
        own = k == snn.fitted_as
        neuron = snn.network.get_submodule(path) if own else snn.refitted.get_submodule(beside)
        assert isinstance(neuron, FewSpikesNeuron)
        found[path] = neuron
    return found


def stretched(neuron: FewSpikesNeuron, factor: float | Tensor) -> FewSpikesNeuron:
    """Changes a neuron in place so that it takes x as it took ``factor * x``; returns it."""
    for tensor in (neuron.thresholds, neuron.resets, neuron.gates):
        if tensor is not None:
            tensor.data = (tensor.data.double() / factor).to(tensor.dtype)
    return neuron


def measure(
    sample: Sample,
    layers: Sequence[Layer],
    neurons: Neurons,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    progress: bool = False,
) -> Corrected:
    """Runs the exact and the spiking network side by side and corrects layer by layer.

    Args:
        sample: the network, which is left as it is, and images to measure on.
        layers: what can be corrected.
        neurons: of every site.
        tensors: what the spiking network alone reads in place of a tensor, by its path.
        progress: shows a bar on stderr.
    """
    pair = _SideBySide(sample, neurons, tensors or {})
    target = {layer.target: layer for layer in layers}
    with torch.no_grad():
        for node in Progress(sample.network.graph.nodes, "correct", shown=progress):
            if node.op == "output":
                after = pair.error(node)
                before = sample.error(neurons, tensors)
                return Corrected(pair.shifts, pair.stretches, before, after)
            pair.compute(node)
            if node in target and pair.differ(node):
                pair.correct(target[node])
            pair.forget(node)
    raise AssertionError("a graph ends with its output")


class _SideBySide:
    """The values of both networks as far as they were computed, and what was corrected so far.

    Args:
        sample: the network, and images to measure on.
        neurons: of every site.
        tensors: what the spiking network alone reads in place of a tensor, by its path.
    """

    def __init__(self, sample: Sample, neurons: Neurons, tensors: Mapping[str, Tensor]) -> None:
        self.sample = sample
        self._tensors = tensors
        self.shifts: dict[str, Tensor] = {}
        # Numbers, or tensors of no dimensions: on a GPU nothing waits for them.
        self._factors: dict[str, float | Tensor] = {}
        # As they are after the stretches.
        self._neurons = dict(neurons)
        self._exact: Values = {}
        # The same lists where nothing differs yet.
        self._spiking: Values = {}
        self._inputs = count()

    def compute(self, node: Node) -> None:
        """Computes a node's values in both networks, or takes them from the inputs."""
        if node.op == "placeholder":
            index = next(self._inputs)
            self._exact[node] = self._spiking[node] = [piece[index] for piece in self.sample.own]
            return
        self._exact[node] = self._values(node, self._exact, self.sample.exact)
        if node.op == "get_attr" and str(node.target) in self._tensors:
            # Another list: what reads it differs.
            pieces = len(self.sample.pieces)
            self._spiking[node] = [self._tensors[str(node.target)]] * pieces
            return
        differs = node.op == "call_module" or any(map(self.differ, node.all_input_nodes))
        self._spiking[node] = (
            self._values(node, self._spiking, self._neurons) if differs else self._exact[node]
        )

    def _values(
        self, node: Node, known: Values, modules: Mapping[str, torch.nn.Module]
    ) -> list[Any]:
        """A node's value for every piece."""
        network, pieces = self.sample.network, len(self.sample.own)
        if node.op == "get_attr":
            return [compute(network, node, {})] * pieces
        target = str(node.target)
        calls: Modules = called({target: modules[target]}) if target in modules else {}
        return [
            compute(network, node, {n: known[n][piece] for n in node.all_input_nodes}, calls)
            for piece in range(pieces)
        ]

    def differ(self, node: Node) -> bool:
        """Whether the two networks may have other values here."""
        return self._spiking[node] is not self._exact[node]

    def correct(self, layer: Layer) -> None:
        """Measures a layer's mean error and takes it out of the spiking network's values."""
        exact, spiking = self._exact[layer.target], self._spiking[layer.target]
        held = self.sample.batch_axes(layer.target)
        sizes = self.sample.own_sizes
        rows = [_means(v, layer.axis, sizes, held) for v in (exact, spiking)]
        gathered = self.sample.gathered("means", list(zip(*rows, strict=True)))
        means = [torch.cat(each) for each in zip(*gathered, strict=True)]
        factor: float | Tensor = 1.0
        if layer.into is not None:
            squares = [
                _squares(v, layer.axis, m) for v, m in zip((exact, spiking), means, strict=True)
            ]
            gathered = self.sample.gathered("spreads", list(zip(*squares, strict=True)))
            factor = _factor(*(_spread(each) for each in zip(*gathered, strict=True)))
            self._factors[layer.into] = factor
            self._neurons[layer.into] = stretched(copy.deepcopy(self._neurons[layer.into]), factor)
        shift = _shrunk(means[0] / factor - means[1])
        shift = shift.to(value_at(self.sample.network, layer.bias).dtype)
        self.shifts[layer.bias] = shift.reshape(layer.shape)
        along = [1] * layer.target.meta["val"].dim()
        along[layer.axis] = -1
        # New tensors: a view's source must stay what it is.
        self._spiking[layer.target] = [v + shift.view(along).to(v.dtype) for v in spiking]

    @property
    def stretches(self) -> dict[str, float]:
        """What every site's input is multiplied with, by the path of its neuron; waits once."""
        tensors = [f for f in self._factors.values() if isinstance(f, Tensor)]
        read = iter(torch.stack(tensors).tolist() if tensors else [])
        return {
            path: next(read) if isinstance(factor, Tensor) else factor
            for path, factor in self._factors.items()
        }

    def forget(self, node: Node) -> None:
        """Drops the values that no node after this one reads."""
        for dead in self.sample.last.get(node, ()):
            self._exact.pop(dead, None)
            self._spiking.pop(dead, None)

    def error(self, output: Node) -> float:
        """Relative error of the spiking network's outputs."""
        exact, spiking = (
            [
                leaves(output, {n: values[n][piece] for n in output.all_input_nodes})
                for piece in range(len(self.sample.own))
            ]
            for values in (self._exact, self._spiking)
        )
        return self.sample.error_of(exact, spiking)


def _means(
    values: Sequence[Tensor], axis: int, sizes: Sequence[int], held: Collection[int]
) -> list[Tensor]:
    """Mean of every channel for every image of each piece, ``[images, channels]``, float64.

    Where no axis is the images', every piece counts as one.

    Args:
        values: of every piece.
        axis: of the channels.
        sizes: images of every piece.
        held: axes whose length the batch decides.
    """
    rows = []
    for value, size in zip(values, sizes, strict=True):
        dtype = torch.promote_types(value.dtype, torch.float32)
        along, v = axis, value
        alike = [i for i, n in enumerate(v.shape) if n == size and i != axis and i in held]
        batch = alike[0] if alike else None
        if batch is None and axis and v.shape[0] % size == 0:
            # Windows of an image, one after the other.
            v, along, batch = v.unflatten(0, (size, -1)), axis + 1, 0
        gone = [i for i in range(v.dim()) if i not in (along, batch)]
        mean = v.mean(gone, dtype=dtype) if gone else v.to(dtype)
        if batch is None:
            mean = mean[None]
        elif batch > along:
            mean = mean.T
        rows.append(mean.double())
    return rows


def _squares(values: Sequence[Tensor], axis: int, means: Tensor) -> list[tuple[Tensor, int]]:
    """Of every piece the sum of squares of the distances from each channel's mean, and how many."""
    found = []
    for value in values:
        shape = [1] * value.dim()
        shape[axis] = -1
        middle = means.mean(0).to(torch.promote_types(value.dtype, torch.float32)).view(shape)
        found.append(((value - middle).square().sum(dtype=torch.float64), value.numel()))
    return found


def _spread(squares: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Mean square of the distances, float64 without dimensions."""
    total, count = torch.zeros((), dtype=torch.float64, device=squares[0][0].device), 0
    for square, number in squares:
        total += square
        count += number
    return total / count


def _factor(exact: Tensor, spiking: Tensor) -> float | Tensor:
    """What brings the spread of the spiking network to that of the exact one; 1 without any."""
    if apart(exact.device):
        factor = (exact / spiking).sqrt().clamp(1 / _STRETCH, _STRETCH)
        return torch.where(torch.minimum(exact, spiking) > 0, factor, 1.0)
    a, b = float(exact), float(spiking)
    return min(max((a / b) ** 0.5, 1 / _STRETCH), _STRETCH) if min(a, b) > 0 else 1.0


def _shrunk(rows: Tensor) -> Tensor:
    """Mean over images ``[images, channels]``, less what chance may have made of it."""
    mean = rows.mean(0)
    noise = rows.var(0) / len(rows)
    kept = mean * (1 - noise / mean.square().clamp_min(1e-300)).clamp_min(0.0)
    return kept.nan_to_num(0.0, 0.0, 0.0)
