"""Norms as mean, square, sum, inverse root and product: two sites instead of what remains.

Mean and sums are synaptic. The square acts on the centred input, brought to mean 0 and deviation 1
in every channel by constants from calibration, and the sum over channels takes them back:

    sum c_i^2  =  sum s_i^2 z_i^2 + sum 2 u_i c_i - sum u_i^2,   z_i = (c_i - u_i) / s_i

holds exactly for any u and s, and channels that lie far out or hardly move cost the square no
resolution. Groups are brought to mean square 1 in the same way, before the inverse root.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..graph import fold
from ..graph.edit import Emitter, device_of
from ..graph.memory_layout import loosen_views
from ..graph.node_facts import read
from ..graph.regions import packet
from .norm_statistics import NormInput, Scales

aten = torch.ops.aten


@dataclass(frozen=True)
class Norm:
    """A norm of the graph.

    Args:
        node: the operation.
        taken: what it averages over.
        weight, bias: nodes of its affine part, None without.
        epsilon: added to the mean square.
    """

    node: Node
    taken: NormInput
    weight: Any
    bias: Any
    epsilon: float


def find_norms(graph_module: GraphModule) -> tuple[dict[Node, Norm], list[str]]:
    """Every norm that can be taken apart, and notes on those that can't."""
    found, notes = {}, []
    for node in graph_module.graph.nodes:
        read = _READ.get(packet(node)) if node.op == "call_function" else None
        if read is None:
            continue
        norm = read(node)
        if norm is None:
            notes.append(f"{packet(node)} stays as it is: its mean is over a length that varies")
        else:
            found[node] = norm
    return found, list(dict.fromkeys(notes))


def _argument(node: Node, name: str, default: Any = None) -> Any:
    """An argument by its name in the operation's schema."""
    declared = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    place = declared.index(name)
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)


def _layer(node: Node) -> Norm | None:
    source = node.args[0]
    assert isinstance(source, Node)
    lengths = tuple(_argument(node, "normalized_shape"))
    centred = packet(node) == "layer_norm"
    epsilon = _argument(node, "eps", 1e-5 if centred else None)
    if epsilon is None:
        epsilon = torch.finfo(source.meta["val"].dtype).eps
    if not all(isinstance(n, int) for n in lengths):
        return None
    bias = _argument(node, "bias") if centred else None
    taken = NormInput(source, centred, lengths)
    return Norm(node, taken, _argument(node, "weight"), bias, float(epsilon))


def _group(node: Node) -> Norm | None:
    source = node.args[0]
    assert isinstance(source, Node)
    shape = source.meta["val"].shape
    if not all(isinstance(n, int) for n in shape[1:]):
        return None
    group = packet(node) == "group_norm"
    groups = int(_argument(node, "num_groups")) if group else int(shape[1])
    taken = NormInput(source, True, (), groups)
    epsilon = float(_argument(node, "eps", 1e-5))
    return Norm(node, taken, _argument(node, "weight"), _argument(node, "bias"), epsilon)


_READ: dict[str, Callable[[Node], Norm | None]] = {
    "layer_norm": _layer,
    "rms_norm": _layer,
    "group_norm": _group,
    "instance_norm": _group,
}


def fold_running(graph_module: GraphModule) -> None:
    """Instance norms that use statistics of training become a multiplication and an addition."""
    for node in list(graph_module.graph.nodes):
        if packet(node) != "instance_norm" or _argument(node, "use_input_stats", True):
            continue
        x = node.args[0]
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (
            None if (n := _argument(node, name)) is None else read(graph_module, n).double()
            for name in names
        )
        scale = (var + _argument(node, "eps", 1e-5)).rsqrt() * (1.0 if weight is None else weight)
        shift = (0.0 if bias is None else bias) - mean * scale
        value = x.meta["val"]
        shape = [1, -1] + [1] * (value.dim() - 2)
        emit = Emitter(graph_module, node)
        factor = emit.constant("norm_scale", scale.view(shape).to(value.dtype))
        offset = emit.constant("norm_shift", shift.view(shape).to(value.dtype))
        scaled = emit.call(aten.mul.Tensor, x, factor)
        emit.replace(node, emit.call(aten.add.Tensor, scaled, offset))
    fold.tidy(graph_module)


def normalise(
    graph_module: GraphModule, norms: Mapping[Node, Norm], scales: Mapping[Node, Scales]
) -> None:
    """Takes norms apart; what the graph computes stays the same to rounding.

    Args:
        graph_module: a captured graph, changed in place.
        norms: from `find_norms`.
        scales: of their inputs, from `norm_scales`.
    """
    for node, norm in norms.items():
        if node in scales:
            _Apart(graph_module, norm, scales[node]).replace()
    fold.tidy(graph_module)
    if norms:
        loosen_views(graph_module)


class _Apart:
    def __init__(self, graph_module: GraphModule, norm: Norm, scales: Scales) -> None:
        self.graph_module, self.norm, self.scales = graph_module, norm, scales
        self.emit = Emitter(graph_module, norm.node)
        self.device = device_of(graph_module)
        source = norm.taken.source.meta["val"]
        half = source.dtype in (torch.float16, torch.bfloat16)
        self.dtype = torch.float32 if half else source.dtype

    def replace(self) -> None:
        """Puts the parts where the norm was."""
        emit, node = self.emit, self.norm.node
        # As it is now: the norm before may have been taken apart.
        x: Any = node.args[0]
        value = node.meta["val"]
        if x.meta["val"].dtype != self.dtype:
            x = emit.call(aten._to_copy.default, x, dtype=self.dtype)
        result = self._grouped(x) if self.norm.taken.groups else self._last(x)
        if value.dtype != self.dtype:
            result = emit.call(aten._to_copy.default, result, dtype=value.dtype)
        emit.replace(node, result)

    def _constant(self, name: str, value: Tensor) -> Node:
        return self.emit.constant(f"norm_{name}", value.to(self.dtype).contiguous())

    def _affine(self, name: str, default: float, shape: list[int]) -> Tensor:
        """Weight or bias as doubles, on the device of the scales."""
        node = getattr(self.norm, name)
        if node is None:
            return torch.full(shape, default, dtype=torch.float64, device=self.device)
        value: Tensor = read(self.graph_module, node).detach().double().reshape(shape)
        return value

    def _standard(self, centred: Node, shape: list[int]) -> Node:
        """Every channel with mean 0 and deviation 1, squared."""
        call, s = self.emit.call, self.scales
        z = call(aten.mul.Tensor, centred, self._constant("scale", (1 / s.deviation).view(shape)))
        if bool(s.mean.any()):
            shift = self._constant("shift", (-s.mean / s.deviation).view(shape))
            z = call(aten.add.Tensor, z, shift)
        return call(aten.mul.Tensor, z, z)

    def _last(self, x: Node) -> Node:
        """Over the last dimensions."""
        call, s, lengths = self.emit.call, self.scales, list(self.norm.taken.lengths)
        dims = list(range(-len(lengths), 0))
        centred = x
        if self.norm.taken.centred:
            centred = call(aten.sub.Tensor, x, call(aten.mean.dim, x, dims, True))
        squares = self._standard(centred, lengths)
        count = math.prod(lengths)
        total = self._weighted(squares, s.deviation.square() / count, dims)
        if bool(s.mean.any()):
            linear = self._weighted(centred, 2 * s.mean / count, dims)
            total = call(aten.add.Tensor, total, linear)
        rest = self.norm.epsilon - float(s.mean.square().sum()) / count
        total = call(aten.add.Tensor, total, rest)
        result = call(aten.mul.Tensor, centred, call(aten.rsqrt.default, total))
        for target, name in ((aten.mul.Tensor, "weight"), (aten.add.Tensor, "bias")):
            if getattr(self.norm, name) is not None:
                part = self._constant(name, self._affine(name, 0.0, lengths))
                result = call(target, result, part)
        return result

    def _weighted(self, values: Node, weights: Tensor, dims: list[int]) -> Node:
        """A weighted sum over the last dimensions, which are kept with length 1."""
        call = self.emit.call
        if len(dims) == 1:
            return call(aten.linear.default, values, self._constant("sum", weights.view(1, -1)))
        scaled = call(aten.mul.Tensor, values, self._constant("sum", weights))
        return call(aten.sum.dim_IntList, scaled, dims, True)

    def _grouped(self, x: Node) -> Node:
        """Over groups of channels and all later dimensions."""
        call, s, groups = self.emit.call, self.scales, self.norm.taken.groups
        shape = x.meta["val"].shape
        channels, spatial = int(shape[1]), list(range(2, len(shape)))
        inner = [channels] + [1] * len(spatial)
        each = channels // groups
        size: Any = shape[0]
        if not isinstance(size, int):
            size = call(aten.sym_size.int, x, 0)

        def pooled(value: Node) -> Node:
            return call(aten.mean.dim, value, spatial) if spatial else value

        mean = pooled(x)
        if each > 1:
            even = torch.ones(groups, each, dtype=torch.float64)
            mean = self._out(self._in(mean, even / each), even)
        centred = call(aten.sub.Tensor, x, call(aten.reshape.default, mean, [size, *inner]))
        unit = s.square.unsqueeze(-1)
        squares = pooled(self._standard(centred, inner))
        total = self._in(squares, s.deviation.square() / (each * unit))
        if each > 1 and bool(s.mean.any()):
            linear = self._in(pooled(centred), 2 * s.mean / (each * unit))
            total = call(aten.add.Tensor, total, linear)
        rest = (self.norm.epsilon - s.mean.square().mean(-1)) / s.square
        total = call(aten.add.Tensor, total, self._constant("rest", rest))
        gain = self._affine("weight", 1.0, [groups, each]) / unit.sqrt().to(self.device)
        root = self._out(call(aten.rsqrt.default, total), gain)
        result = call(aten.mul.Tensor, centred, call(aten.reshape.default, root, [size, *inner]))
        if self.norm.bias is not None:
            bias = self._constant("bias", self._affine("bias", 0.0, inner))
            result = call(aten.add.Tensor, result, bias)
        return result

    def _in(self, value: Node, weights: Tensor) -> Node:
        """Channels ``[N, C]`` to weighted sums of the groups ``[N, G]``; weights ``[G, C / G]``."""
        if weights.shape[1] == 1:
            return self.emit.call(aten.mul.Tensor, value, self._constant("sum", weights.flatten()))
        matrix = torch.block_diag(*weights.unsqueeze(1))
        return self.emit.call(aten.linear.default, value, self._constant("sum", matrix))

    def _out(self, value: Node, weights: Tensor) -> Node:
        """Groups ``[N, G]`` to every channel of theirs ``[N, C]``; weights ``[G, C / G]``."""
        if weights.shape[1] == 1:
            return self.emit.call(aten.mul.Tensor, value, self._constant("gain", weights.flatten()))
        matrix = torch.block_diag(*weights.unsqueeze(2))
        return self.emit.call(aten.linear.default, value, self._constant("gain", matrix))
