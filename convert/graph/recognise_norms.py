"""Norms that are written out, as the one operation that `nn.LayerNorm` and `nn.RMSNorm` are.

Recognised is every product of a tensor, centred or not, with the inverse root of its own mean
square over the same dimensions, however it is spelled: var or mean of squares, sum over a length,
rsqrt, sqrt and reciprocal, division, norm; epsilon inside or outside the root; weight and bias on
either side. `F.normalize` is such a norm too: RMS norm with the weight 1 / sqrt(n).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from . import fold
from .operators import Kind, kind_of
from .regions import is_float, packet

aten = torch.ops.aten

_CASTS = (Kind.IDENTITY, Kind.CAST)
# Outside the root an epsilon differs from one inside; up to these it differs by rounding only.
_ADDED, _FLOOR = 1e-5, 1e-6


@dataclass(frozen=True)
class _Spread:
    """``factor * M + shift`` or its root; M is the mean of squares of `source`.

    Args:
        source: the tensor before centring.
        dims: the dimensions of the mean, increasing.
        centred: whether its mean is subtracted before squaring.
        factor, shift: of the mean square; an epsilon beside the root is part of shift.
        power: 1, or 0.5 after the root.
    """

    source: Node
    dims: tuple[int, ...]
    centred: bool
    factor: float = 1.0
    shift: float = 0.0
    power: float = 1.0


def recognise(graph_module: GraphModule) -> None:
    """Replaces every norm that is written out by ``layer_norm`` or ``rms_norm``.

    Dimensions that aren't the last are moved there and back. What the graph computes stays the
    same to rounding.
    """
    _split(graph_module.graph)
    norms = _Norms(graph_module)
    # The outermost product first, so that the weight goes with it.
    for node in reversed(list(graph_module.graph.nodes) if norms.spreads else []):
        if packet(node) in ("mul", "div") and node.op == "call_function" and node.users:
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
    def __init__(self, graph_module: GraphModule) -> None:
        self.graph_module = graph_module
        self.graph = graph_module.graph
        # What a norm is built of comes before it, so that no replacing changes it.
        self.spreads: dict[Node, _Spread] = {}
        for node in self.graph.nodes:
            if (spread := self._read_spread(node)) is not None:
                self.spreads[node] = spread

    def replace(self, node: Node) -> None:
        """Replaces one product if it is a norm."""
        if not is_float(node) or (found := self._match(node)) is None:
            return
        spread, weights = found
        last, bias = node, None
        if spread.centred:
            last, bias = self._biased(node, spread)
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

    def _moved(self, spread: _Spread) -> tuple[Node, list[int] | None]:
        """The source with the norm's dimensions last, and the order that moves them back."""
        dim = spread.source.meta["val"].dim()
        order = [d for d in range(dim) if d not in spread.dims] + list(spread.dims)
        if order == list(range(dim)):
            return spread.source, None
        moved = self._call(aten.permute.default, (spread.source, order), spread.source)
        return moved, [order.index(d) for d in range(dim)]

    # Constants

    def _constant(self, value: Any) -> Tensor | float | None:
        if isinstance(value, bool | int | float):
            return float(value)
        if isinstance(value, Node) and value.op == "get_attr":
            tensor = fold.read(self.graph_module, value)
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                return tensor
        return None

    def _number(self, value: Any) -> float | None:
        constant = self._constant(value)
        if isinstance(constant, Tensor):
            return float(constant) if constant.numel() == 1 else None
        return constant

    def _fits(self, value: Any, spread: _Spread) -> bool:
        """Whether a constant varies along the norm's dimensions only."""
        constant = self._constant(value)
        if not isinstance(constant, Tensor):
            return constant is not None
        shape = spread.source.meta["val"].shape
        extra = len(shape) - constant.dim()
        return extra >= 0 and all(
            length == 1 or (axis + extra in spread.dims and length == shape[axis + extra])
            for axis, length in enumerate(constant.shape)
        )

    def _scale(
        self, weights: list[tuple[Any, float]], gain: float, spread: _Spread, like: Node
    ) -> Node | None:
        if not weights and math.isclose(gain, 1.0, rel_tol=1e-9):
            return None
        return self._vector(weights, gain, spread, like)

    def _vector(
        self, factors: list[tuple[Any, float]], gain: float, spread: _Spread, like: Node
    ) -> Node:
        """A get_attr node with a product of constants over the norm's dimensions."""
        source = spread.source.meta["val"]
        lengths = [int(source.shape[d]) for d in spread.dims]
        single, power = factors[0] if len(factors) == 1 else (None, 0.0)
        if isinstance(single, Node) and (power, gain) == (1.0, 1.0):
            tensor = fold.read(self.graph_module, single)
            if list(tensor.shape) == lengths and tensor.dtype == source.dtype:
                return single
        device = next(
            (fold.read(self.graph_module, f).device for f, _ in factors if isinstance(f, Node)),
            next((t.device for t in self.graph_module.state_dict().values()), source.device),
        )
        total = torch.full(lengths, gain, dtype=torch.float64, device=device)
        for factor, power in factors:
            constant = self._constant(factor)
            if isinstance(constant, Tensor):
                aligned = constant.double().view(
                    [1] * (source.dim() - constant.dim()) + list(constant.shape)
                )
                total = total * aligned.reshape([aligned.shape[d] for d in spread.dims]) ** power
            else:
                assert constant is not None
                total = total * constant**power
        return fold.add_buffer(self.graph_module, f"norm_{like.name}", total.to(source.dtype), like)

    # Matching

    def _match(self, node: Node) -> tuple[_Spread, list[tuple[Any, float]]] | None:
        for spread_node, power in list(self._terms(node, None)):
            spread = self._spread(spread_node)
            if spread is None or not math.isclose(power * spread.power, -0.5):
                continue
            if not self._kept(spread_node, spread):
                continue
            terms = list(self._terms(node, spread.source))
            rest = [t for t in terms if t[0] is not spread_node]
            constants = [t for t in rest if self._constant(t[0]) is not None]
            signals = [t for t in rest if self._constant(t[0]) is None]
            if len(signals) != 1 or len(rest) != len(terms) - 1 or signals[0][1] != 1.0:
                continue
            signal = _peeled(signals[0][0])
            source = self._centre(signal, spread.dims) if spread.centred else signal
            if source is spread.source and all(self._fits(c, spread) for c, _ in constants):
                return spread, constants
        return None

    def _terms(self, product: Node, stop: Node | None) -> Iterator[tuple[Any, float]]:
        """Factors of a product, with their powers; `stop` is one factor, whatever it is made of."""
        waiting: list[tuple[Any, float]] = [(product, 1.0)]
        while waiting:
            value, power = waiting.pop()
            node = _peeled(value)
            name = "" if node is stop else _name(node)
            # What others read too is a value of its own, of which the norm is not a part.
            inner = value is product or (isinstance(node, Node) and len(node.users) == 1)
            if name == "mul" and inner:
                waiting += [(node.args[1], power), (node.args[0], power)]
            elif name == "div" and inner and not node.kwargs:
                waiting += [(node.args[1], -power), (node.args[0], power)]
            elif name == "reciprocal":
                waiting.append((node.args[0], -power))
            elif name == "rsqrt":
                yield node.args[0], -0.5 * power
            elif name == "sqrt":
                yield node.args[0], 0.5 * power
            elif name == "pow" and isinstance(node.args[1], int | float) and node.args[1] != 1:
                yield node.args[0], node.args[1] * power
            else:
                yield node, power

    def _centre(self, node: Any, dims: tuple[int, ...]) -> Node | None:
        """x for ``x - mean(x)``."""
        if not isinstance(node, Node) or _name(node) != "sub" or len(node.args) != 2:
            return None
        x, mean = (_peeled(argument) for argument in node.args)
        inner = _unsqueezed(mean)
        if _name(inner) != "mean" or not isinstance(x, Node) or len(inner.args) < 2:
            return None
        same = _peeled(inner.args[0]) is x and _dims(inner.args[1], x) == dims
        return x if same and _keeps(mean, x, dims) else None

    def _square(self, node: Any) -> Node | None:
        node = _peeled(node)
        name = _name(node)
        if name == "square" or (name == "pow" and node.args[1] == 2):
            return _peeled(node.args[0])
        if name == "mul" and _peeled(node.args[0]) is _peeled(node.args[1]):
            return _peeled(node.args[0])
        return None

    def _spread(self, value: Any) -> _Spread | None:
        return self.spreads.get(_unsqueezed(_peeled(value)))

    def _read_spread(self, node: Node) -> _Spread | None:
        """The spread that a node is, if those before it are known."""
        if node.op != "call_function":
            return None
        name, args = packet(node), node.args
        if name == "var":
            return self._variance(node)
        if name in ("mean", "sum") and len(args) > 1:
            base = self._square(args[0])
            if base is None:
                return None
            dims = _dims(args[1], base)
            count = _count(base, dims)
            if not count:
                return None
            factor = 1.0 if name == "mean" else float(count)
            x = self._centre(base, dims)
            return _Spread(base if x is None else x, dims, x is not None, factor)
        if name in ("mul", "div", "add", "clamp", "clamp_min", "sub"):
            return self._changed(node, name)
        if name == "sqrt" or (name == "pow" and args[1] == 0.5):
            inner = self._spread(args[0])
            return replace(inner, power=0.5) if inner and inner.power == 1.0 else None
        return None

    def _variance(self, node: Node) -> _Spread | None:
        x = _peeled(node.args[0])
        dims = _dims(node.args[1] if len(node.args) > 1 else None, x)
        count = _count(x, dims)
        correction = node.kwargs.get("correction", 1)
        correction = 1 if correction is None else correction
        if not isinstance(correction, int | float) or count <= correction:
            return None
        centred = self._centre(x, dims)
        return _Spread(x if centred is None else centred, dims, True, count / (count - correction))

    def _changed(self, node: Node, name: str) -> _Spread | None:
        """A spread times a number, plus an epsilon, or with a lower bound."""
        a, b = (*node.args[:2], None)[:2]
        if name == "sub":
            return self._two_moments(a, b)
        if name in ("mul", "add") and self._number(a) is not None:
            a, b = b, a
        number, inner = self._number(b), self._spread(a)
        if number is None or inner is None or len(node.args) > 2 or node.kwargs:
            return None
        if name in ("mul", "div"):
            times = number if name == "mul" else 1.0 / number if number else 0.0
            if times <= 0:
                return None
            times = times if inner.power == 1.0 else times * times
            return replace(inner, factor=inner.factor * times, shift=inner.shift * times)
        if number < 0:
            return None
        if name == "add" and inner.power == 1.0:
            return replace(inner, shift=inner.shift + number)
        root = number if inner.power == 0.5 else math.sqrt(number)
        if root > (_ADDED if name == "add" else _FLOOR):
            return None
        return replace(inner, shift=inner.shift + root * root)

    def _two_moments(self, a: Any, b: Any) -> _Spread | None:
        """mean(x^2) - mean(x)^2."""
        squares, mean = self._spread(a), _unsqueezed(self._square(b))
        if squares is None or _name(mean) != "mean" or len(mean.args) < 2:
            return None
        x = _peeled(mean.args[0])
        plain = (squares.centred, squares.factor, squares.shift, squares.power)
        if plain != (False, 1.0, 0.0, 1.0) or x is not squares.source:
            return None
        return replace(squares, centred=True) if _dims(mean.args[1], x) == squares.dims else None

    def _kept(self, node: Any, spread: _Spread) -> bool:
        return _keeps(_peeled(node), spread.source, spread.dims)

    def _biased(self, node: Node, spread: _Spread) -> tuple[Node, tuple[Any, float] | None]:
        """The sum that ends a layer norm, and its bias."""
        users = list(node.users)
        while len(users) == 1 and kind_of(users[0]) in _CASTS:
            users = list(users[0].users)
        if len(users) == 1 and packet(users[0]) == "add" and len(users[0].args) == 2:
            total = users[0]
            other = [a for a in total.args if _peeled(a) is not node]
            if len(other) == 1 and not total.kwargs and self._fits(other[0], spread):
                if isinstance(other[0], Node):
                    return total, (other[0], 1.0)
        return node, None


def _name(value: Any) -> str:
    return packet(value) if isinstance(value, Node) and value.op == "call_function" else ""


def _peeled(value: Any) -> Any:
    """A value without casts and broadcasts around it."""
    while isinstance(value, Node) and (kind_of(value) in _CASTS or _name(value) == "expand"):
        if not isinstance(value.args[0], Node) or not is_float(value.args[0]):
            break
        value = value.args[0]
    return value


def _unsqueezed(value: Any) -> Any:
    while isinstance(value, Node) and packet(value) == "unsqueeze":
        value = _peeled(value.args[0])
    return value


def _dims(dims: Any, x: Node) -> tuple[int, ...]:
    count = x.meta["val"].dim()
    chosen = range(count) if not dims and dims != 0 else [dims] if isinstance(dims, int) else dims
    return tuple(sorted(d % count for d in chosen))


def _count(x: Node, dims: tuple[int, ...]) -> int:
    """Values that one mean covers; 0 if that depends on the batch."""
    lengths = [x.meta["val"].shape[d] for d in dims]
    return math.prod(lengths) if all(isinstance(n, int) for n in lengths) else 0


def _keeps(node: Any, x: Node, dims: tuple[int, ...]) -> bool:
    """Whether a reduced value lines up with what it was reduced from."""
    expected = ["1" if d in dims else str(n) for d, n in enumerate(x.meta["val"].shape)]
    return [str(n) for n in node.meta["val"].shape] == expected
