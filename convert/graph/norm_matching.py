"""What a norm that is written out is made of: its mean square, however it is spelled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from .node_facts import read
from .operators import Kind, is_aten, kind_of
from .regions import is_float, packet

_CASTS = (Kind.IDENTITY, Kind.CAST)
# Outside the root an epsilon differs from one inside; up to these it differs by rounding only.
_ADDED, _FLOOR = 1e-5, 1e-6


@dataclass(frozen=True)
class Spread:
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


class Matcher:
    """Finds the norms of a graph.

    What a norm is built of comes before it, so that replacing norms from the last to the first
    changes nothing here.

    Args:
        graph_module: a captured graph.
    """

    def __init__(self, graph_module: GraphModule) -> None:
        self.graph_module = graph_module
        self.spreads: dict[Node, Spread] = {}
        for node in graph_module.graph.nodes:
            if (spread := self._read_spread(node)) is not None:
                self.spreads[node] = spread

    def match(self, node: Node) -> tuple[Spread, list[tuple[Any, float]]] | None:
        for spread_node, power in list(self._terms(node, None)):
            spread = self._spread(spread_node)
            if spread is None or not math.isclose(power * spread.power, -0.5):
                continue
            if not self._kept(spread_node, spread):
                continue
            terms = list(self._terms(node, spread.source))
            rest = [t for t in terms if t[0] is not spread_node]
            constants = [t for t in rest if self.constant(t[0]) is not None]
            signals = [t for t in rest if self.constant(t[0]) is None]
            if len(signals) != 1 or len(rest) != len(terms) - 1 or signals[0][1] != 1.0:
                continue
            signal = _peeled(signals[0][0])
            source = self._centre(signal, spread.dims) if spread.centred else signal
            if source is spread.source and all(self.fits(c, spread) for c, _ in constants):
                return spread, constants
        return None

    def biased(self, node: Node, spread: Spread) -> tuple[Node, tuple[Any, float] | None]:
        """The sum that ends a layer norm, and its bias."""
        users = list(node.users)
        while len(users) == 1 and kind_of(users[0]) in _CASTS:
            users = list(users[0].users)
        if len(users) == 1 and packet(users[0]) == "add" and len(users[0].args) == 2:
            total = users[0]
            other = [a for a in total.args if _peeled(a) is not node]
            if len(other) == 1 and not total.kwargs and self.fits(other[0], spread):
                if isinstance(other[0], Node):
                    return total, (other[0], 1.0)
        return node, None

    def constant(self, value: Any) -> Tensor | float | None:
        if isinstance(value, bool | int | float):
            return float(value)
        if isinstance(value, Node) and value.op == "get_attr":
            tensor = read(self.graph_module, value)
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                return tensor
        return None

    def _number(self, value: Any) -> float | None:
        constant = self.constant(value)
        if isinstance(constant, Tensor):
            return float(constant) if constant.numel() == 1 else None
        return constant

    def fits(self, value: Any, spread: Spread) -> bool:
        """Whether a constant varies along the norm's dimensions only."""
        constant = self.constant(value)
        if not isinstance(constant, Tensor):
            return constant is not None
        shape = spread.source.meta["val"].shape
        extra = len(shape) - constant.dim()
        return extra >= 0 and all(
            length == 1 or (axis + extra in spread.dims and length == shape[axis + extra])
            for axis, length in enumerate(constant.shape)
        )

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

    def _spread(self, value: Any) -> Spread | None:
        return self.spreads.get(_unsqueezed(_peeled(value)))

    def _read_spread(self, node: Node) -> Spread | None:
        """The spread that a node is, if those before it are known."""
        if not is_aten(node):
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
            return Spread(base if x is None else x, dims, x is not None, factor)
        if name in ("mul", "div", "add", "clamp", "clamp_min", "sub"):
            return self._changed(node, name)
        if name == "sqrt" or (name == "pow" and args[1] == 0.5):
            inner = self._spread(args[0])
            return replace(inner, power=0.5) if inner and inner.power == 1.0 else None
        return None

    def _variance(self, node: Node) -> Spread | None:
        x = _peeled(node.args[0])
        dims = _dims(node.args[1] if len(node.args) > 1 else None, x)
        count = _count(x, dims)
        correction = node.kwargs.get("correction", 1)
        correction = 1 if correction is None else correction
        if not isinstance(correction, int | float) or count <= correction:
            return None
        centred = self._centre(x, dims)
        return Spread(x if centred is None else centred, dims, True, count / (count - correction))

    def _changed(self, node: Node, name: str) -> Spread | None:
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

    def _two_moments(self, a: Any, b: Any) -> Spread | None:
        """mean(x^2) - mean(x)^2."""
        squares, mean = self._spread(a), _unsqueezed(self._square(b))
        if squares is None or _name(mean) != "mean" or len(mean.args) < 2:
            return None
        x = _peeled(mean.args[0])
        plain = (squares.centred, squares.factor, squares.shift, squares.power)
        if plain != (False, 1.0, 0.0, 1.0) or x is not squares.source:
            return None
        return replace(squares, centred=True) if _dims(mean.args[1], x) == squares.dims else None

    def _kept(self, node: Any, spread: Spread) -> bool:
        return _keeps(_peeled(node), spread.source, spread.dims)


def _name(value: Any) -> str:
    return packet(value) if isinstance(value, Node) and is_aten(value) else ""


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
