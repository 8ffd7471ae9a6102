"""A whole network as NIR's nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from ..errors import ExportError
from ..graph.node_facts import captured_batch, read, size, where
from ..graph.regions import packet
from ..graph.run import compute
from ..network.model import SpikingModel
from .nir_graph import NirGraph, NirSignal, Shape
from .nir_neurons import one_node, unrolled
from .nir_rules import RULES, NirCall
from .subject import Subject, arguments, op_name, subject


def nir_graph(snn: SpikingModel, *, compact: bool = False) -> NirGraph:
    """The network as a graph of NIR's nodes.

    Args:
        snn: from `to_spiking`.
        compact: one node for each site, with its numbers as metadata.

    Raises:
        InputError: for what is no whole network.
        ExportError: for parts that NIR has no nodes for, all of them by name.
    """
    return _Translation(snn, subject(snn, "a NIR file"), compact).graph()


class _Translation:
    """One network on its way.

    Args:
        snn: the network.
        taken: what of it is translated.
        compact: one node for each site.
    """

    def __init__(self, snn: SpikingModel, taken: Subject, compact: bool) -> None:
        self.snn, self.taken, self.compact = snn, taken, compact
        weights = [t for t in taken.network.state_dict().values() if t.is_floating_point()]
        double = any(t.dtype == torch.float64 for t in weights)
        self.g = NirGraph(np.float64 if double else np.float32)
        self.batch = captured_batch(taken.network.graph)
        self.values: dict[Node, Any] = {}
        self.calls: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        # Values that NIR can't say, and whatever needs them.
        self.unknown: set[Node] = set()

    def graph(self) -> NirGraph:
        """The new graph."""
        self._check_inputs()
        inputs = zip(self.snn.signature.inputs, self.snn.signature.constants, strict=True)
        for node in self.taken.network.graph.nodes:
            if node.op == "placeholder":
                tensor, constant = next(inputs)
                self._input(node, constant if tensor is None else None, tensor is None)
            elif node.op == "output":
                self._outputs(node)
            else:
                self._translate(node)
        return self.g

    def _check_inputs(self) -> None:
        signature = self.snn.signature
        for tensor in signature.inputs:
            if tensor is None:
                continue
            if tensor.axis != 0 or signature.varying:
                raise ExportError(
                    f"NIR has one shape for each input, with the images first; found {tensor}; "
                    "convert the network with inputs of one length"
                )
            if not tensor.dtype.is_floating_point:
                kind = str(tensor.dtype).removeprefix("torch.")
                raise ExportError(
                    f"NIR's nodes take numbers, found {kind} at the input {tensor.name}; export "
                    "to ONNX, or convert what comes behind the look-up"
                )

    def _input(self, node: Node, constant: Any, fixed: bool) -> None:
        if fixed:
            self.values[node] = constant
            return
        shape = self._shape(node)
        self.values[node] = self.g.add("Input", node.name, None, shape, lengths=shape)

    def _shape(self, node: Node) -> Shape:
        """The shape of one image's value."""
        return tuple(size(length) for length in node.meta["val"].shape[1:])

    def _translate(self, node: Node) -> None:
        if any(n in self.unknown for n in node.all_input_nodes):
            self.unknown.add(node)
        elif node.op == "call_module":
            self.values[node] = self._site(node)
        elif node in self.taken.signals:
            made = self._operation(node)
            if made is None:
                self.refused[f"{packet(node)} at {where(node)}"] += 1
                self.unknown.add(node)
            else:
                self.values[node] = made
        elif node.op == "get_attr":
            self.values[node] = read(self.taken.network, node)
        elif op_name(node) == "sym_size":
            self.values[node] = size(node.meta["val"])
        else:
            self.values[node] = compute(self.taken.network, node, self._constants(node))
        made = self.values.get(node)
        if isinstance(made, NirSignal) and len(node.users) > 1:
            self.values[node] = self.g.joined(f"{self._called(node)}.sum", made)

    def _constants(self, node: Node) -> dict[Node, Any]:
        """What a constant is made of; a signal that is read for its shape and type is zeros."""
        found = {}
        for each in node.all_input_nodes:
            value = self.values[each]
            if isinstance(value, NirSignal):
                like = torch.from_numpy(np.zeros(0, self.g.dtype))
                value = like.new_zeros((self.batch, *value.shape))
            found[each] = value
        return found

    def _site(self, node: Node) -> NirSignal:
        path = str(node.target)
        (before,) = node.all_input_nodes
        self.calls[path] += 1
        name = self.taken.sites[path]
        name = f"{name}@{self.calls[path]}" if self.calls[path] > 1 else name
        make = one_node if self.compact else unrolled
        return make(self.g, name, self.taken.neurons[path], self.values[before])

    def _called(self, node: Node) -> str:
        return self.taken.sites.get(str(node.target), "") or _name(node)

    def _operation(self, node: Node) -> NirSignal | None:
        name = op_name(node)
        if name == "getitem" and node.args[1] == 0:
            return self._first(node)
        rule = RULES.get(name)
        if rule is None or not self._by_image(node):
            return None
        given = map_arg(arguments(node), self.values.__getitem__)
        if not any(isinstance(v, NirSignal) for v in (given.get("self"), given.get("input"))):
            if name not in ("add", "sub", "rsub", "mul", "cat"):
                return None
        value = node.meta["val"]
        like = value[0] if isinstance(value, tuple | list) else value
        shape = tuple(size(length) for length in like.shape[1:])
        return rule(self.g, NirCall(node, _name(node), given, shape))

    def _first(self, node: Node) -> NirSignal | None:
        """The first result of an operation that has several: a batch norm's values."""
        source = node.args[0]
        assert isinstance(source, Node)
        value = self.values[source]
        return value if isinstance(value, NirSignal) else None

    def _by_image(self, node: Node) -> bool:
        """Whether the images lie along the first axis, before an operation and behind it."""
        for each in (node, *(n for n in node.all_input_nodes if n in self.taken.signals)):
            value = each.meta["val"]
            tensor = value[0] if isinstance(value, tuple | list) else value
            if not isinstance(tensor, Tensor) or not tensor.dim():
                return False
            if size(tensor.shape[0]) != self.batch:
                return False
        return True

    def _outputs(self, node: Node) -> None:
        if self.refused:
            listed = ", ".join(
                name if count == 1 else f"{name} ({count} times)"
                for name, count in self.refused.items()
            )
            raise ExportError(
                f"NIR has no nodes for {listed}; convert the network without them (max_pool=, "
                "normalisation=), or export to ONNX"
            )
        returned: list[Node] = []
        map_arg(node.args[0], returned.append)
        ends: list[str] = []
        for i, each in enumerate(returned):
            value = self.values[each]
            if not isinstance(value, NirSignal):
                raise ExportError(
                    f"NIR has no node for output {i}, which doesn't depend on the input; leave it "
                    "out of what the network returns"
                )
            name = "output" if len(returned) == 1 else f"output{i}"
            made = self.g.add("Output", name, value, value.shape, lengths=value.shape)
            ends += made.sources
        self.g.keep(ends)


def _name(node: Node) -> str:
    """What a node of the network is called in the file."""
    place = where(node)
    return node.name if ":" in place or " " in place or not place else f"{place}.{packet(node)}"
