"""The run of a network in whole numbers, layer by layer, exact to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from ..calibration.histogram import HIDDEN
from ..errors import InputError
from ..graph.operators import Kind, operator_of
from ..graph.regions import packet
from ..graph.run import compute, last_read
from .abilities import bias_of, dims_of, weight_of
from .neurons import WholeNeuron
from .records import Layer, Op, Read
from .whole_numbers import MOST, checked, clamped, shifted, whole

# Told every layer with its inputs and its result, as integers or floating point.
Told = Callable[[Layer, Sequence[Any], Any], None]


class WholeRun:
    """Runs one network.

    Args:
        network: the graph.
        layers: of it, in its order.
        neurons: by the path of their module.
    """

    def __init__(
        self,
        network: GraphModule,
        layers: Sequence[Layer],
        neurons: Mapping[str, WholeNeuron],
    ) -> None:
        self._network, self._neurons = network, neurons
        self._layers = {layer.node: layer for layer in layers}
        self._last = last_read(network.graph)

    def __call__(self, leaves: Sequence[Any], told: Told | None = None) -> list[Any]:
        """Flat outputs, decoded.

        Args:
            leaves: flat inputs.
            told: see `Told`.
        """
        given = iter(leaves)
        # Integers where a layer has a form, and what the graph itself computes elsewhere.
        values: dict[Node, Any] = {}
        for node in self._network.graph.nodes:
            if node.op == "output":
                returned: Any = node.args[0]
                return pytree.tree_leaves(map_arg(returned, lambda n: self._decoded(values, n)))
            layer = self._layers.get(node)
            if node.op == "placeholder":
                values[node] = next(given)
            elif layer is None or layer.op is Op.FLOAT:
                # Reads of values that are integers see what these stand for.
                known = {n: self._decoded(values, n) for n in node.all_input_nodes}
                values[node] = compute(self._network, node, known)
            else:
                taken = [self._read(values, read, layer) for read in layer.reads]
                values[node] = made = self._made(layer, taken, values)
                if told is not None:
                    told(layer, taken, made)
            for dead in self._last.get(node, ()):
                values.pop(dead, None)
        raise AssertionError("a graph ends with its output")

    def _decoded(self, values: Mapping[Node, Any], node: Node) -> Any:
        """A value as the graph has it."""
        layer = self._layers.get(node)
        if layer is None or layer.form is None:
            return values[node]
        form = layer.form
        like = node.meta["val"]
        dtype = like.dtype if isinstance(like, Tensor) else torch.float32
        return pytree.tree_map(
            lambda n: (n.double() * form.unit).to(dtype) if isinstance(n, Tensor) else n,
            values[node],
        )

    def _read(self, values: Mapping[Node, Any], read: Read, layer: Layer) -> Any:
        """An input in the whole numbers that the layer takes."""
        value, form = values[read.node], read.form
        assert form is not None
        if read.pixels is not None:
            along = [1, -1] + [1] * (value.dim() - 2)
            pixels = read.pixels
            scaled = (value.double() - pixels.base.view(along)) / pixels.step.view(along)
            p = whole(scaled, 1.0, MOST, layer.name) - pixels.zero.view(along)
            return clamped(p, form.most)
        if read.rescale is None:
            n = whole(value, form.unit, form.most, layer.name)
            hidden = layer.op is Op.NEURON
            return torch.where(value <= HIDDEN, -form.most - 1, n) if hidden else n
        if read.rescale.plain and not read.saturates:
            return value
        n = read.rescale(value)
        return clamped(n, form.most) if read.saturates else n

    def _made(self, layer: Layer, taken: Sequence[Any], values: Mapping[Node, Any]) -> Any:
        """What a layer makes of whole numbers."""
        assert layer.form is not None
        if layer.op is Op.NEURON:
            n = self._neurons[str(layer.node.target)](taken[0])
        elif layer.op in (Op.WEIGHTS, Op.SCALE):
            n = accumulated(layer, taken[0])
        elif layer.op is Op.SUM:
            n = self._added(layer, taken, values)
        elif layer.op is Op.WINDOW:
            n = _window_sums(layer, taken[0])
        else:
            return self._rearranged(layer, taken, values)
        checked(n[0] if isinstance(n, tuple) else n, layer.form.most, layer.name)
        return n

    def _added(self, layer: Layer, taken: Sequence[Tensor], values: Mapping[Node, Any]) -> Tensor:
        assert layer.form is not None
        total: Any = 0
        for n, sign in zip(taken, layer.numbers["signs"], strict=True):
            total = total + (n if sign > 0 else -n)
        for constant, factor in layer.numbers["constants"]:
            value = values[constant] if isinstance(constant, Node) else torch.tensor(constant)
            total = total + whole_constant(value.double() * factor, layer.form.unit)
        return clamped(total, MOST) if layer.numbers["saturates"] else total

    def _rearranged(self, layer: Layer, taken: Sequence[Any], values: Mapping[Node, Any]) -> Any:
        """The graph's own operation on integers: it moves them, or finds the largest."""
        assert layer.form is not None
        known = {n: values[n] for n in layer.node.all_input_nodes}
        for read, n in zip(layer.reads, taken, strict=True):
            known[read.node] = n
        if layer.op is Op.JOIN:
            read_nodes = {read.node for read in layer.reads}
            for node in set(layer.node.all_input_nodes) - read_nodes:
                if isinstance(known[node], Tensor) and known[node].is_floating_point():
                    known[node] = whole_constant(known[node].double(), layer.form.unit)
        # Pools and casts know no integers; below 2^53 doubles hold each.
        if layer.op is Op.MAXIMUM or packet(layer.node).startswith("upsample"):
            known = {n: v.double() if isinstance(v, Tensor) else v for n, v in known.items()}
        row = operator_of(layer.node)
        if row is not None and row.kind is Kind.CAST:
            return taken[0]
        made = compute(self._network, layer.node, known)
        return pytree.tree_map(lambda n: n.to(torch.int64) if isinstance(n, Tensor) else n, made)


def whole_constant(value: Tensor, unit: float) -> Tensor:
    """A constant in whole numbers, halves up."""
    return torch.floor(value / unit + 0.5).to(torch.int64)


def accumulated(layer: Layer, n: Tensor) -> Any:
    """What weights make of whole numbers: sums with the bias, shifted into the result's unit.

    Args:
        layer: with integer weights, bias and shifts.
        n: int64.
    """
    assert layer.form is not None
    weights, shifts = layer.tensors["weights"], layer.tensors["shifts"]
    bias = layer.tensors.get("bias")
    if layer.op is Op.SCALE:
        along = [1, -1] + [1] * (n.dim() - 2)
        affine = layer.numbers["affine"]
        factor, by = (t.view(along) if affine else t for t in (weights, shifts))
        sums = n * factor
        if bias is not None:
            sums = sums + (bias.view(along) if affine else bias)
    else:
        sums, by = _summed(layer, n, weights), _along(layer, shifts)
        if bias is not None:
            sums = sums + _along(layer, bias)
    checked(sums, layer.numbers["accumulator"], f"an accumulator of {layer.name}")
    made = shifted(sums, by)
    made = clamped(made, MOST) if layer.numbers["saturates"] else made
    # A batch norm's node gives three results.
    return (made, None, None) if layer.numbers.get("affine") else made


def _summed(layer: Layer, n: Tensor, weights: Tensor) -> Tensor:
    """Sums of products in double precision, which holds every whole number below 2^53."""
    node = layer.node
    (signal,) = (read.node for read in layer.reads)
    chosen = {signal: n.double(), weight_of(node): weights.double()}
    added = bias_of(node)
    args = [chosen.get(a, a) if isinstance(a, Node) else a for a in node.args]
    row = operator_of(node)
    if row is not None and row.bias is not None and added is not None:
        args[row.bias] = None if row.bias else torch.zeros((), dtype=torch.float64)
    assert callable(node.target)
    made: Tensor = node.target(*args)
    return made.round().to(torch.int64)


def _along(layer: Layer, values: Tensor) -> Tensor:
    """One number for each output channel along the result's axis of channels."""
    axis, rank = layer.numbers["channels"], layer.node.meta["val"].dim()
    shape = [1] * rank
    if len(values) > 1:
        shape[axis] = -1
    return values.view(shape)


def _window_sums(layer: Layer, n: Tensor) -> Tensor:
    """Sums of the windows of a mean or an average pooling."""
    node = layer.node
    name = packet(node)
    if name in ("mean", "sum"):
        keep = bool(node.args[2]) if len(node.args) > 2 else False
        made = n.sum(dims_of(node), keep)
        if n.numel() != made.numel() * layer.numbers["window"]:
            raise InputError(
                f"{layer.name} sums {n.numel() // max(made.numel(), 1)} values here, and "
                f"{layer.numbers['window']} where the network was captured; whole numbers take "
                "images of that size alone"
            )
        return made
    if name == "avg_pool2d":
        given: list[Any] = list(node.args[1:4])
        defaults: list[Any] = [[], 0]
        kernel, stride, padding = given + defaults[len(given) - 1 :]
    else:
        made_sizes = node.meta["val"].shape[-2:]
        kernel = stride = [int(a) // int(b) for a, b in zip(n.shape[-2:], made_sizes, strict=True)]
        padding = 0
    sums = torch.ops.aten.avg_pool2d(n.double(), kernel, stride, padding, False, True, 1)
    return sums.to(torch.int64)
