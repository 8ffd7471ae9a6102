"""One linear operation of a graph: what it makes of constants, of one signal alone, of events."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from ..graph.operators import Kind, operator_of
from ..graph.regions import packet
from .synapses import POOLS, SUMS, Connection, Passage

Values = Mapping[Node, Any]
_NOTHING = object()


class LinearParts:
    """One linear operation in a run.

    Args:
        connection: a route or weights.
        known: values of what it reads beside signals.
        zeros: for each of its signals a zero in the place of every number.
    """

    def __init__(self, connection: Connection, known: Values, zeros: Values) -> None:
        self.connection, self.known, self.zeros = connection, known, zeros
        self._base: Any = _NOTHING

    def constant(self, values: Values) -> Any:
        """The whole operation, with its bias, on constant parts of its signals.

        Args:
            values: the constant parts; those that are left out are 0.
        """
        return call(self.connection.node, {**self.known, **self.zeros, **values})

    def part(self, signal: Node, value: Any) -> Any:
        """What a value of one signal adds to the result.

        Args:
            signal: one that the operation reads.
            value: of its shape.
        """
        node = self.connection.node
        row = operator_of(node)
        if packet(node) in SUMS:
            return self._summand(signal, value, _factors(node))
        values = {**self.known, **self.zeros, signal: value}
        if row is not None and row.kind is Kind.AFFINE:
            means = [v for n, v in self.known.items() if n is node.args[_MEAN]]
            return call(node, values, {_BIAS: None, _MEAN: torch.zeros_like(means[0])})
        if row is not None and row.weighted:
            return call(node, values, _no_bias(node, value))
        made = call(node, values)
        if self._base is _NOTHING:
            self._base = call(node, {**self.known, **self.zeros})
        return pytree.tree_map(_without, made, self._base)

    def arrivals(self, signal: Node, count: Any) -> Any:
        """How many events come to each place of the result.

        A weight of 0 is no synapse; any other lets every event through once.

        Args:
            signal: one that the operation reads.
            count: events at each of its places, float64.
        """
        node = self.connection.node
        name, row = packet(node), operator_of(node)
        if name in SUMS:
            return self._summand(signal, count, [1.0] * len(node.args))
        if self.connection.passage is Passage.WEIGHTS:
            return self._through_weights(signal, count)
        if name in ("mul", "div") or (row is not None and row.kind is Kind.CAST):
            return count
        if name in POOLS:
            return _pooled(node, self.known, count)
        read = {**self.known, **self.zeros}
        values: dict[Node, Any] = {n: pytree.tree_map(_doubled, v) for n, v in read.items()}
        base = call(node, values)
        return pytree.tree_map(_without, call(node, {**values, signal: count}), base)

    def _summand(self, signal: Node, value: Tensor, factors: Sequence[float]) -> Tensor:
        """A sum's part: the value times its factor, at every place of the sum."""
        args = self.connection.node.args
        factor = sum(f for f, a in zip(factors, args, strict=False) if a is signal)
        result = value if factor == 1 else value * factor
        read = [self.zeros.get(a, self.known.get(a)) for a in args if isinstance(a, Node)]
        shapes = [tensor.shape for tensor in read if isinstance(tensor, Tensor)]
        return result.expand(torch.broadcast_shapes(result.shape, *shapes))

    def _through_weights(self, signal: Node, count: Tensor) -> Any:
        node = self.connection.node
        row = operator_of(node)
        values = {n: pytree.tree_map(_ones, v) for n, v in self.known.items()} | {signal: count}
        if row is None or row.kind is not Kind.AFFINE:
            if packet(node) == "div":
                values |= {n: torch.ones_like(v) for n, v in values.items() if n is not signal}
            made = call(node, values, _no_bias(node, count))
            alpha = float(node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
            return made if alpha in (0, 1) else made / alpha
        passed = count
        if isinstance(node.args[_WEIGHT], Node):
            (weight,) = (v for n, v in values.items() if n is node.args[_WEIGHT])
            passed = count * weight.view(-1, *[1] * (count.dim() - 2))
        return passed if isinstance(node.meta["val"], Tensor) else (passed, None, None)


# Arguments of a batch norm.
_WEIGHT, _BIAS, _MEAN = 1, 2, 3


def call(node: Node, values: Values, replaced: Mapping[int, Any] | None = None) -> Any:
    """A node's operation on values, with some of its arguments replaced by place."""
    given: Any = (node.args, node.kwargs)
    args, kwargs = map_arg(given, values.__getitem__)
    if replaced:
        args = [replaced.get(i, a) for i, a in enumerate(args)]
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _no_bias(node: Node, value: Tensor) -> dict[int, Any]:
    """Replaces what an operation adds to a value's products, where it adds something."""
    row = operator_of(node)
    if row is None or row.bias is None or len(node.args) <= row.bias:
        return {}
    # Where the added tensor comes first, there must be one.
    return {row.bias: None if row.bias else value.new_zeros(())}


def _factors(node: Node) -> list[float]:
    """Of each summand of a sum or difference."""
    alpha = float(node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
    by_name = {"add": [1.0, alpha], "sub": [1.0, -alpha], "rsub": [-alpha, 1.0], "neg": [-1.0]}
    return by_name[packet(node)]


def _without(made: Any, base: Any) -> Any:
    """A result without what constants add; one of infinity fills places that get nothing."""
    if not isinstance(made, Tensor) or not made.is_floating_point():
        return made
    return torch.where(base.isfinite(), made - base, torch.zeros_like(made))


def _doubled(value: Any) -> Any:
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if floats else value


def _ones(value: Any) -> Any:
    """1 where there is a synapse."""
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return (value != 0).double() if floats else value


def _pooled(node: Node, known: Values, count: Tensor) -> Any:
    """Events in each window of a pooling, or of another sum with equal factors."""
    name = packet(node)
    values: dict[Any, Any] = {**known, node.args[0]: count}
    if name == "mean":
        mean = call(node, values)
        return mean * (count.numel() / mean.numel())
    if name.startswith("avg_pool"):
        return _window_sums(node, count)
    if "adaptive" in name:
        mean = call(node, values)
        dims = int(name[-2]) if name[-1] == "d" else 2
        for axis in range(-dims, 0):
            sizes = _window_sizes(count.shape[axis], mean.shape[axis]).to(count)
            mean = mean * sizes.view(-1, *[1] * (-axis - 1))
        return mean
    return call(node, values)


def _window_sums(node: Node, count: Tensor) -> Tensor:
    """What an average pooling's windows hold in all."""
    defaults: tuple[Any, ...] = (None, [], 0, False)
    given: list[Any] = [*node.args[1:5]]
    kernel, stride, padding, ceil = [*given, *defaults[len(given) :]]
    dims = int(packet(node)[-2])
    if dims == 3:
        return torch.ops.aten.avg_pool3d(count, kernel, stride, padding, ceil, True, 1)
    if dims == 2:
        return torch.ops.aten.avg_pool2d(count, kernel, stride, padding, ceil, True, 1)
    wide = [[1, *_list(kernel)], [1, *_list(stride)] if _list(stride) else [], [0, *_list(padding)]]
    return torch.ops.aten.avg_pool2d(count.unsqueeze(-2), *wide, ceil, True, 1).squeeze(-2)


def _list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _window_sizes(length: int, windows: int) -> Tensor:
    """How many places each window of an adaptive pooling has."""
    ends = [math.ceil((i + 1) * length / windows) for i in range(windows)]
    return torch.tensor([end - i * length // windows for i, end in enumerate(ends)])
