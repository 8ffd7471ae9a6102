"""Norms that are written out, as the one operation that `nn.LayerNorm` and `nn.RMSNorm` are.

Recognised is every product of a tensor, centred or not, with the inverse root of its own mean
square over the same dimensions, however it is spelled: var or mean of squares, sum over a length,
rsqrt, sqrt and reciprocal, division, norm; epsilon inside or outside the root; weight and bias on
either side. `F.normalize` is such a norm too: RMS norm with the weight 1 / sqrt(n).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from . import fold
from .node_facts import read
from .norm_matching import Matcher, Spread
from .operators import is_aten
from .regions import is_float, packet

aten = torch.ops.aten


def recognise(graph_module: GraphModule) -> None:
    """Replaces every norm that is written out by ``layer_norm`` or ``rms_norm``.

    Dimensions that aren't the last are moved there and back. What the graph computes stays the
    same to rounding.
    """
    _split(graph_module.graph)
    matcher = Matcher(graph_module)
    norms = _Norms(graph_module, matcher)
    # The outermost product first, so that the weight goes with it.
    for node in reversed(list(graph_module.graph.nodes) if matcher.spreads else []):
        if is_aten(node) and packet(node) in ("mul", "div") and node.users:
            norms.replace(node)
    fold.tidy(graph_module)


def _split(graph: Graph) -> None:
    """var_mean as a variance and a mean."""
    for node in list(graph.nodes):
        if node.target is not aten.var_mean.correction:
            continue
        x, dims = node.args[0], (node.args[1] if len(node.args) > 1 else None)
        keep = bool(node.kwargs.get("keepdim", False))
        every = dims or list(range(x.meta["val"].dim()))
        for user in list(node.users):
            with graph.inserting_before(user):
                if user.args[1] == 0:
                    new = graph.call_function(aten.var.correction, (x, dims), dict(node.kwargs))
                else:
                    new = graph.call_function(aten.mean.dim, (x, every, keep))
            new.meta = dict(user.meta)
            user.replace_all_uses_with(new)


class _Norms:
    """Puts a norm in the place of the operations that it is written out as."""

    def __init__(self, graph_module: GraphModule, matcher: Matcher) -> None:
        self.graph_module, self.matcher = graph_module, matcher
        self.graph = graph_module.graph

    def replace(self, node: Node) -> None:
        """Replaces one product if it is a norm."""
        if not is_float(node) or (found := self.matcher.match(node)) is None:
            return
        spread, weights = found
        last, bias = node, None
        if spread.centred:
            last, bias = self.matcher.biased(node, spread)
        shape = spread.source.meta["val"].shape
        if [str(n) for n in shape] != [str(n) for n in last.meta["val"].shape]:
            return
        lengths = [shape[d] for d in spread.dims]
        if not all(isinstance(n, int) for n in lengths):
            return
        gain = spread.factor**-0.5
        with self.graph.inserting_before(last):
            x, back = self._moved(spread)
            scale = self._scale(weights, gain, spread, last)
            epsilon = spread.shift / spread.factor
            if spread.centred:
                shift = None if bias is None else self._vector([bias], 1.0, spread, last)
                args: tuple[Any, ...] = (x, lengths, scale, shift, epsilon)
                result = self.graph.call_function(aten.layer_norm.default, args)
            else:
                args = (x, lengths, scale, epsilon)
                result = self.graph.call_function(aten.rms_norm.default, args)
            result.meta = dict(last.meta)
            result.meta["val"] = x.meta["val"]
            if back is not None:
                result = self._call(aten.permute.default, (result, back), last)
                # A later view may rely on the layout.
                dense = torch.contiguous_format
                result = self._call(aten.clone.default, (result,), last, memory_format=dense)
            dtype = last.meta["val"].dtype
            if dtype != spread.source.meta["val"].dtype:
                result = self._call(aten._to_copy.default, (result,), last, dtype=dtype)
        last.replace_all_uses_with(result)

    def _call(self, target: Any, args: tuple[Any, ...], like: Node, **kwargs: Any) -> Node:
        node = self.graph.call_function(target, args, kwargs)
        node.meta = dict(like.meta)
        first = args[0].meta["val"]
        node.meta["val"] = target(first, *args[1:], **kwargs)
        return node

    def _moved(self, spread: Spread) -> tuple[Node, list[int] | None]:
        """The source with the norm's dimensions last, and the order that moves them back."""
        dim = spread.source.meta["val"].dim()
        order = [d for d in range(dim) if d not in spread.dims] + list(spread.dims)
        if order == list(range(dim)):
            return spread.source, None
        moved = self._call(aten.permute.default, (spread.source, order), spread.source)
        return moved, [order.index(d) for d in range(dim)]

    def _scale(
        self, weights: list[tuple[Any, float]], gain: float, spread: Spread, like: Node
    ) -> Node | None:
        if not weights and math.isclose(gain, 1.0, rel_tol=1e-9):
            return None
        return self._vector(weights, gain, spread, like)

    def _vector(
        self, factors: list[tuple[Any, float]], gain: float, spread: Spread, like: Node
    ) -> Node:
        """A get_attr node with a product of constants over the norm's dimensions."""
        source = spread.source.meta["val"]
        lengths = [int(source.shape[d]) for d in spread.dims]
        single, power = factors[0] if len(factors) == 1 else (None, 0.0)
        if isinstance(single, Node) and (power, gain) == (1.0, 1.0):
            tensor = read(self.graph_module, single)
            if list(tensor.shape) == lengths and tensor.dtype == source.dtype:
                return single
        device = next(
            (read(self.graph_module, f).device for f, _ in factors if isinstance(f, Node)),
            next((t.device for t in self.graph_module.state_dict().values()), source.device),
        )
        total = torch.full(lengths, gain, dtype=torch.float64, device=device)
        for factor, power in factors:
            constant = self.matcher.constant(factor)
            if isinstance(constant, Tensor):
                aligned = constant.double().view(
                    [1] * (source.dim() - constant.dim()) + list(constant.shape)
                )
                total = total * aligned.reshape([aligned.shape[d] for d in spread.dims]) ** power
            else:
                assert constant is not None
                total = total * constant**power
        return fold.add_buffer(self.graph_module, f"norm_{like.name}", total.to(source.dtype), like)
