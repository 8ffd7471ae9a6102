"""Takes out what the conversion of the sites adds to every layer's output on average.

In graph order, on the calibration data: each layer's mean error, channel by channel, goes into its
bias with the opposite sign (bias correction: Nagel et al. 2019, arXiv 1906.04721, section 4.2), and
a neuron's thresholds and resets follow the spread of what now reaches it, which few steps narrow.
What comes later is measured behind what was corrected before. One pass over the data for every K.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from tqdm import tqdm

from ..graph.run import compute
from ..network.bias_shifts import Corrections
from ..network.model import SpikingModel
from ..network.report import Correction
from ..neuron.few_spikes import FewSpikesNeuron
from .biased_layers import Layer, find_layers, value_at
from .side_by_side import Sample, decoding, leaves, relative_error

# A neuron's input is never stretched or shrunk by more than this.
_STRETCH = 2.0


@dataclass
class Corrected:
    """What was measured for one K.

    Args:
        shifts: what the bias of a layer takes, by its path.
        stretches: what a site's input is multiplied with, by the path of its neuron.
        before, after: relative error of the network's outputs on these images.
        images: how many.
    """

    shifts: dict[str, Tensor]
    stretches: dict[str, float]
    before: float
    after: float
    images: int


def correct(
    snn: SpikingModel,
    wanted: Sequence[int],
    batches: Iterable[Any],
    *,
    progress: bool = False,
) -> list[Correction]:
    """Corrects a network for each of its K where that helps, and says what was done.

    Args:
        snn: a converted network without corrections; changed in place.
        wanted: every K that it was fitted for, its own first.
        batches: calibration batches, as for `calibrate`.
        progress: shows a bar on stderr.
    """
    network = snn.network
    device = next((t.device for t in network.state_dict().values()), None)
    layers = find_layers(network, {path: name for name, path in snn.names.items()})
    exact = {path: snn.exact[path.rpartition(".")[2]] for path in snn.names.values()}
    sample = Sample(network, exact, snn.signature, batches, device)
    side_by_side = Corrector(sample, layers, progress=progress)
    if not layers or sample.images < 2:
        return []
    trained = {layer.bias: value_at(network, layer.bias) for layer in layers}
    snn.corrections = Corrections({layer.bias: layer.sites for layer in layers}, trained)
    rows = []
    for k in wanted:
        own: Any = network if k == wanted[0] else snn.refitted[str(k)]
        neurons: dict[str, FewSpikesNeuron] = {
            path: own.get_submodule(path if own is network else path.rpartition(".")[2])
            for path in snn.names.values()
        }
        found = side_by_side.measure(neurons)
        kept = found.after < found.before
        if kept:
            snn.corrections.add(k, found.shifts)
            for path, factor in found.stretches.items():
                stretched(neurons[path], factor)
        rows.append(Correction(k, len(layers), found.images, found.before, found.after, kept))
    snn.corrections.put(network, wanted[0])
    return rows


def stretched(neuron: FewSpikesNeuron, factor: float) -> FewSpikesNeuron:
    """Changes a neuron in place so that it takes x as it took ``factor * x``; returns it."""
    for tensor in (neuron.thresholds, neuron.resets):
        tensor.data = (tensor.data.double() / factor).to(tensor.dtype)
    return neuron


class Corrector:
    """Runs the exact and the spiking network side by side, layer by layer.

    Args:
        sample: the network, and images to measure on.
        layers: what can be corrected.
        progress: shows a bar on stderr.
    """

    def __init__(
        self,
        sample: Sample,
        layers: Sequence[Layer],
        *,
        progress: bool = False,
    ) -> None:
        self.sample, self.progress = sample, progress
        self.layers = {layer.target: layer for layer in layers}

    def measure(self, neurons: Mapping[str, FewSpikesNeuron]) -> Corrected:
        """Shifts and stretches for neurons by path; the network is left as it is."""
        with torch.no_grad():
            return self._measure(neurons)

    def _measure(self, neurons: Mapping[str, FewSpikesNeuron]) -> Corrected:
        found = Corrected({}, {}, 0.0, 0.0, self.sample.images)
        modules = dict(neurons)
        exact: dict[Node, list[Any]] = {}
        spiking: dict[Node, list[Any]] = {}
        nodes = list(self.sample.network.graph.nodes)
        index = 0
        for node in tqdm(nodes, "correct", disable=None if self.progress else True):
            if node.op == "placeholder":
                exact[node] = [piece[index] for piece in self.sample.pieces]
                spiking[node] = exact[node]
                index += 1
                continue
            if node.op == "output":
                count = range(len(self.sample.pieces))
                wanted, got = (
                    [leaves(node, {n: v[piece] for n, v in values.items()}) for piece in count]
                    for values in (exact, spiking)
                )
                found.after = relative_error(wanted, got)
                found.before = self.sample.error(neurons)
                break
            exact[node] = self._values(node, exact, self.sample.exact)
            if all(spiking[n] is exact[n] for n in node.all_input_nodes) and (
                node.op != "call_module"
            ):
                spiking[node] = exact[node]
            else:
                spiking[node] = self._values(node, spiking, modules)
                if node in self.layers:
                    self._correct(self.layers[node], exact[node], spiking[node], found, modules)
            for dead in self.sample.last.get(node, ()):
                for values in (exact, spiking):
                    values.pop(dead, None)
        return found

    def _values(
        self, node: Node, known: Mapping[Node, list[Any]], modules: Mapping[str, torch.nn.Module]
    ) -> list[Any]:
        """A node's value for every piece."""
        network = self.sample.network
        if node.op == "get_attr":
            return [compute(network, node, {})] * len(self.sample.pieces)
        called = {path: decoding(module) for path, module in modules.items()}
        return [
            compute(network, node, {n: known[n][piece] for n in node.all_input_nodes}, called)
            for piece in range(len(self.sample.pieces))
        ]

    def _correct(
        self,
        layer: Layer,
        exact: list[Tensor],
        spiking: list[Tensor],
        found: Corrected,
        modules: dict[str, FewSpikesNeuron],
    ) -> None:
        """Measures a layer and changes what follows in place."""
        means = [_means(values, layer.axis, self.sample.sizes) for values in (exact, spiking)]
        factor = 1.0
        if layer.into is not None:
            spread = [
                _spread(v, layer.axis, m) for v, m in zip((exact, spiking), means, strict=True)
            ]
            if min(spread) > 0:
                factor = min(max((spread[0] / spread[1]) ** 0.5, 1 / _STRETCH), _STRETCH)
            found.stretches[layer.into] = factor
            modules[layer.into] = stretched(copy.deepcopy(modules[layer.into]), factor)
        shift = _shrunk(means[0] / factor - means[1])
        shift = shift.to(value_at(self.sample.network, layer.bias).dtype)
        found.shifts[layer.bias] = shift.reshape(layer.shape)
        along = [1] * spiking[0].dim()
        along[layer.axis] = -1
        # New tensors: a view's source must stay what it is.
        spiking[:] = [value + shift.view(along).to(value.dtype) for value in spiking]


def _means(values: Sequence[Tensor], axis: int, sizes: Sequence[int]) -> Tensor:
    """Mean of every channel for every image, ``[images, channels]``, float64.

    Where no axis is the images', every piece counts as one.
    """
    rows = []
    for value, size in zip(values, sizes, strict=True):
        dtype = torch.promote_types(value.dtype, torch.float32)
        along, v = axis, value
        alike = [i for i, n in enumerate(v.shape) if n == size and i != axis]
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
    return torch.cat(rows)


def _spread(values: Sequence[Tensor], axis: int, means: Tensor) -> float:
    """Mean square of the distance from each channel's mean."""
    total, count = 0.0, 0
    for value in values:
        shape = [1] * value.dim()
        shape[axis] = -1
        middle = means.mean(0).to(torch.promote_types(value.dtype, torch.float32)).view(shape)
        total += float((value - middle).square().sum(dtype=torch.float64))
        count += value.numel()
    return total / count


def _shrunk(rows: Tensor) -> Tensor:
    """Mean over images ``[images, channels]``, less what chance may have made of it."""
    mean = rows.mean(0)
    noise = rows.var(0) / len(rows)
    kept = mean * (1 - noise / mean.square().clamp_min(1e-300)).clamp_min(0.0)
    return kept.nan_to_num(0.0, 0.0, 0.0)
