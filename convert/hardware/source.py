"""What a network is made whole from: a copy of it, and what its calibration data shows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..assembly.bias_correction import neurons_of
from ..assembly.biased_layers import find_layers
from ..assembly.side_by_side import Sample
from ..calls.batch_reading import read_by
from ..common.batches import batches_of
from ..errors import InputError
from ..graph.node_facts import read
from ..graph.operators import Kind, kind_of
from ..graph.regions import packet
from ..graph.run import compute, watch
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from .abilities import Abilities, weight_of
from .correcting import Corrections, corrections
from .images import pixels_of
from .planning import Planner
from .records import Op, Pixels

# Images on which pixels are looked for.
_LOOKED_AT = 256


class Source:
    """A copy of a network that is made whole, and its calibration data.

    Args:
        snn: the network, which is left as it is; inside `with_steps` with those neurons.
        data: calibration data, or None.

    Raises:
        InputError: for a network in half precision.
    """

    def __init__(self, snn: SpikingModel, data: Any) -> None:
        self.original = copied = copy.deepcopy(snn).to("cpu").eval()
        self.network: GraphModule = copied.network
        fit = snn.plan.fit or snn.fitted_as
        if snn.plan.fit is not None:
            for path, neuron in neurons_of(copied, fit).items():
                parent, _, key = path.rpartition(".")
                setattr(self.network.get_submodule(parent), key, neuron)
        for tensor in self.network.parameters():
            if tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4:
                raise InputError("the network is in half precision; quantise it before .half()")
        self.batches: Iterable[Any] | None = None
        if data is not None:
            signature = copied.signature
            taken = read_by(batches_of(data, signature.cut_axis), copied.reader())
            self.batches = signature.within(taken)
        # With data the layers' mean errors are measured anew.
        copied.corrections.put(self.network, fit if data is None else None)
        self.layers = find_layers(self.network, {p: n for n, p in snn.names.items()})

    def constants(self, known: Mapping[Node, Any]) -> dict[Node, Any]:
        """Values of nodes that depend on no input."""
        found: dict[Node, Any] = {}
        for node in self.network.graph.nodes:
            if node.op == "get_attr":
                found[node] = read(self.network, node)
            elif node.op == "call_function" and node not in known and node.all_input_nodes:
                if all(n in found for n in node.all_input_nodes) and kind_of(node) is not Kind.SIZE:
                    with torch.no_grad():
                        found[node] = compute(self.network, node, found)
        return found

    def pixels(self) -> dict[Node, Pixels]:
        """Inputs that consist of whole pixels."""
        if self.batches is None:
            return {}
        inputs = [n for n in self.network.graph.nodes if n.op == "placeholder"]
        seen: dict[Node, list[Tensor]] = {n: [] for n in inputs}
        signature, images = self.original.signature, 0
        for batch in self.batches:
            leaves = signature.flatten(*signature.split(batch, None))
            for node, leaf in zip(inputs, leaves, strict=True):
                if isinstance(leaf, Tensor) and leaf.is_floating_point():
                    seen[node].append(leaf)
            images += signature.images(leaves)
            if images >= _LOOKED_AT:
                break
        found = {node: pixels_of(values) for node, values in seen.items() if values}
        return {n: p for n, p in found.items() if p is not None and _convolved(n)}

    def ranges(self, nodes: list[Node], abilities: Abilities, progress: bool) -> dict[Node, float]:
        """The largest size of values; of an input also without data.

        Layers of the same weights, as those of all time steps, read in one unit.
        """
        found = self._seen(nodes, progress)
        readers: dict[str, list[Node]] = {}
        for node, op in abilities.op.items():
            if op is Op.WEIGHTS and weight_of(node).op == "get_attr":
                (signal,) = abilities.connections[node].signals
                if signal in found:
                    readers.setdefault(str(weight_of(node).target), []).append(signal)
        for signals in readers.values():
            found |= dict.fromkeys(signals, max(found[signal] for signal in signals))
        return found

    def _seen(self, nodes: list[Node], progress: bool) -> dict[Node, float]:
        report = self.original.report
        inputs = [n for n in self.network.graph.nodes if n.op == "placeholder"]
        found: dict[Node, float] = {}
        if report is not None:
            for node, bounds in zip(inputs, report.input_ranges, strict=False):
                if node in nodes and bounds is not None:
                    found[node] = max(map(abs, bounds))
        if self.batches is None or not set(nodes) - set(found):
            return found

        def seen(node: Node) -> Callable[[Tensor], None]:
            def told(value: Tensor) -> None:
                if value.numel():
                    found[node] = max(found.get(node, 0.0), float(value.abs().max()))

            return told

        watched = {node: [seen(node)] for node in nodes if node not in found}
        watch(self.network, self.original.signature, watched, self.batches, progress=progress)
        return found

    def corrected(
        self, plan: Planner, neurons: Mapping[str, FewSpikesNeuron], progress: bool
    ) -> Corrections:
        """Mean errors of the layers, if there is data to measure them on."""
        if self.batches is None:
            return Corrections()
        tensors = {}
        for layer in plan.layers:
            if layer.op is Op.WEIGHTS:
                node = weight_of(layer.node)
                if node.op == "get_attr":
                    dtype = read(self.network, node).dtype
                    tensors[str(node.target)] = plan.floats(layer).to(dtype)
        exact = {p: self.original.exact[p.rpartition(".")[2]] for p in neurons}
        sample = Sample(self.network, exact, self.original.signature, self.batches)
        return corrections(sample, self.layers, neurons, tensors, progress=progress)


def _convolved(node: Node) -> bool:
    """Whether convolutions alone read an image as it is."""
    users = [u for u in node.users if isinstance(u.meta.get("val"), Tensor)]
    return bool(users) and all(packet(u) in ("conv1d", "conv2d", "conv3d") for u in users)
