"""Takes out what the conversion of the sites adds to every layer's output on average.

In graph order, on the calibration data: each layer's mean error, channel by channel, goes into its
bias with the opposite sign (bias correction: Nagel et al. 2019, arXiv 1906.04721, section 4.2), and
a neuron's thresholds and resets follow the spread of what now reaches it, which few steps narrow.
What comes later is measured behind what was corrected before. One pass over the data for every K.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree
from tqdm import tqdm

from .biases import Layer, find_layers, value_at
from .corrections import Corrections
from .fold import read
from .neuron import FewSpikesNeuron
from .report import Correction
from .signature import Signature, batch_size
from .spiking import SpikingModel

# Pieces of a batch, as in calibration.
_PIECES = 4
# Values that are kept between layers may take this share of what all layers put out on a batch,
# and this many bytes at least.
_SHARE, _FLOOR = 0.5, 64 * 2**20
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
    side_by_side = Corrector(
        network, exact, layers, snn.signature, batches, device=device, progress=progress
    )
    if not layers or side_by_side.images < 2:
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
        network: graph that calls the sites as modules.
        exact: their exact functions by path.
        layers: what can be corrected.
        signature: how the network is called.
        batches: calibration batches, as for `calibrate`.
        device: where the network lives.
        progress: shows a bar on stderr.
    """

    def __init__(
        self,
        network: GraphModule,
        exact: Mapping[str, torch.nn.Module],
        layers: Sequence[Layer],
        signature: Signature,
        batches: Iterable[Any],
        *,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> None:
        self.network, self.exact, self.progress = network, exact, progress
        self.layers = {layer.target: layer for layer in layers}
        self._last = _last_readers(network)
        self._sizes: list[int] = []
        self._inputs = self._chosen(signature, batches, device)
        self.images = sum(self._sizes)

    def measure(self, neurons: Mapping[str, FewSpikesNeuron]) -> Corrected:
        """Shifts and stretches for neurons by path; the network is left as it is."""
        with torch.no_grad():
            return self._measure(neurons)

    def _measure(self, neurons: Mapping[str, FewSpikesNeuron]) -> Corrected:
        found = Corrected({}, {}, 0.0, 0.0, self.images)
        modules = dict(neurons)
        exact: dict[Node, list[Any]] = {}
        spiking: dict[Node, list[Any]] = {}
        nodes = list(self.network.graph.nodes)
        index = 0
        for node in tqdm(nodes, "correct", disable=None if self.progress else True):
            if node.op == "placeholder":
                exact[node] = [piece[index] for piece in self._inputs]
                spiking[node] = exact[node]
                index += 1
                continue
            if node.op == "output":
                count = range(len(self._inputs))
                wanted, got = (
                    [_leaves(node, {n: v[piece] for n, v in values.items()}) for piece in count]
                    for values in (exact, spiking)
                )
                found.after = _relative_error(wanted, got)
                found.before = self._error(neurons, wanted)
                break
            exact[node] = self._values(node, exact, self.exact)
            if all(spiking[n] is exact[n] for n in node.all_input_nodes) and (
                node.op != "call_module"
            ):
                spiking[node] = exact[node]
            else:
                spiking[node] = self._values(node, spiking, modules)
                if node in self.layers:
                    self._correct(self.layers[node], exact[node], spiking[node], found, modules)
            for dead in self._last.get(node, ()):
                for values in (exact, spiking):
                    values.pop(dead, None)
        return found

    def _values(
        self, node: Node, known: Mapping[Node, list[Any]], modules: Mapping[str, torch.nn.Module]
    ) -> list[Any]:
        """A node's value for every piece."""
        if node.op == "get_attr":
            return [read(self.network, node)] * len(self._inputs)
        return [
            _call(node, {n: known[n][piece] for n in node.all_input_nodes}, modules)
            for piece in range(len(self._inputs))
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
        means = [_means(values, layer.axis, self._sizes) for values in (exact, spiking)]
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
        shift = shift.to(value_at(self.network, layer.bias).dtype)
        found.shifts[layer.bias] = shift.reshape(layer.shape)
        along = [1] * spiking[0].dim()
        along[layer.axis] = -1
        # New tensors: a view's source must stay what it is.
        spiking[:] = [value + shift.view(along).to(value.dtype) for value in spiking]

    def _error(self, neurons: Mapping[str, FewSpikesNeuron], exact: list[Any]) -> float:
        """Relative error of the outputs with these neurons and the biases as they are."""
        found: list[list[Any]] = []
        for piece in self._inputs:
            values: dict[Node, Any] = {}
            inputs = iter(piece)
            for node in self.network.graph.nodes:
                if node.op == "output":
                    found.append(_leaves(node, values))
                elif node.op == "placeholder":
                    values[node] = next(inputs)
                elif node.op == "get_attr":
                    values[node] = read(self.network, node)
                else:
                    values[node] = _call(node, values, neurons)
                for dead in self._last.get(node, ()):
                    del values[dead]
        return _relative_error(exact, found)

    def _chosen(
        self, signature: Signature, batches: Iterable[Any], device: torch.device | str | None
    ) -> list[list[Any]]:
        """Pieces of the first batches, as many images as memory allows."""
        chosen: list[list[Any]] = []
        images, most = 0, 0
        for batch in batches:
            inputs = signature.split(batch, device)
            if not batch_size(inputs):
                continue
            for piece in signature.pieces(signature.flatten(*inputs), _PIECES):
                if not chosen:
                    most = self._affordable(piece, batch_size(inputs))
                chosen.append(piece)
                self._sizes.append(batch_size(piece))
                images += self._sizes[-1]
                if images >= most:
                    return chosen
        return chosen

    def _affordable(self, piece: list[Any], size: int) -> int:
        """How many images' values may be kept, both networks' together."""
        values: dict[Node, Any] = {}
        inputs = iter(piece)
        total = peak = 0
        with torch.no_grad():
            for node in self.network.graph.nodes:
                if node.op == "output":
                    break
                if node.op == "placeholder":
                    values[node] = next(inputs)
                elif node.op != "get_attr":
                    values[node] = _call(node, values, self.exact)
                    seen = set(_storages(values[n] for n in node.all_input_nodes))
                    made = _storages([values[node]])
                    total += sum(n for place, n in made.items() if place not in seen)
                    peak = max(peak, sum(_storages(values.values()).values()))
                else:
                    values[node] = read(self.network, node)
                for dead in self._last.get(node, ()):
                    del values[dead]
        images = batch_size(piece)
        allowed = max(_FLOOR, _SHARE * total * size / images)
        return max(images, int(allowed * images / (2 * max(peak, 1))))


def _call(node: Node, known: Mapping[Node, Any], modules: Mapping[str, Any]) -> Any:
    given: Any = (node.args, node.kwargs)
    args, kwargs = map_arg(given, known.__getitem__)
    if node.op == "call_module":
        module = modules[str(node.target)]
        return module.decode(*args) if isinstance(module, FewSpikesNeuron) else module(*args)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _last_readers(network: GraphModule) -> dict[Node, list[Node]]:
    """Values that no node reads any more, by the node after which that is so."""
    last: dict[Node, Node] = {}
    for node in network.graph.nodes:
        last[node] = node
        last |= dict.fromkeys(node.all_input_nodes, node)
    found: dict[Node, list[Node]] = {}
    for value, node in last.items():
        if node.op != "output" and value.op != "output":
            found.setdefault(node, []).append(value)
    return found


def _leaves(output: Node, values: Mapping[Node, Any]) -> list[Any]:
    given: Any = output.args[0]
    return list(map_arg(given, values.__getitem__))


def _storages(values: Iterable[Any]) -> dict[int, int]:
    """Bytes by address of what some values lie in."""
    tensors = [t for t in pytree.tree_leaves(list(values)) if isinstance(t, Tensor)]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


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


def _relative_error(exact: Sequence[Sequence[Any]], spiking: Sequence[Sequence[Any]]) -> float:
    """Root mean square of the error over that of the outputs, on average over the outputs."""
    found = []
    for pairs in zip(
        *(zip(a, b, strict=True) for a, b in zip(exact, spiking, strict=True)), strict=True
    ):
        if not isinstance(pairs[0][0], Tensor) or not pairs[0][0].is_floating_point():
            continue
        error = size = 0.0
        for a, b in pairs:
            seen = a.isfinite() & b.isfinite()
            error += float(torch.where(seen, b.double() - a.double(), 0.0).square().sum())
            size += float(torch.where(seen, a.double(), 0.0).square().sum())
        if size > 0:
            found.append(math.sqrt(error / size))
    return sum(found) / len(found) if found else 0.0
