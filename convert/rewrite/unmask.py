"""What masks hide from a row maximum, as finite numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..graph.edit import Emitter
from ..graph.node_facts import read
from ..graph.operators import operator_of
from ..graph.regions import is_float, packet
from .maxima import HIDDEN, Maximum

aten = torch.ops.aten


class Unmasked:
    """A row's values with a finite number where a mask put -inf.

    What a mask hides may be the smallest row maximum: the maximum of a row stays what it was. A
    row whose maximum is smaller still gets that number, which is no matter to a softmax.
    """

    def __init__(self, emit: Emitter, each: Maximum, given: set[Node]) -> None:
        self.emit, self.graph_module = emit, emit.graph_module
        self.floor = each.floor if math.isfinite(each.floor) else 0.0
        self.sign = each.sign
        self.given = given

    def clean(self, node: Node) -> Node:
        """A node, or a copy of it without -inf."""
        if self.sign < 0 or node.op != "call_function":
            return node
        name = packet(node)
        if name in ("where", "masked_fill"):
            args = [self._argument(argument) for argument in node.args]
            if all(a is b for a, b in zip(args, node.args, strict=True)):
                return node
            return self.emit.call(node.target, *args, **node.kwargs)  # type: ignore[arg-type]
        if name in ("full", "new_full") and _hides(node.args[-1]):
            return self.emit.call(node.target, *node.args[:-1], self.floor, **node.kwargs)  # type: ignore[arg-type]
        if name == "add" and len(node.args) == 2:
            return self._sum(node)
        first = node.args[0] if node.args else None
        row = operator_of(node)
        if row is not None and row.layout and isinstance(first, Node):
            inner = self.clean(first)
            if inner is not first:
                return self.emit.call(node.target, inner, *node.args[1:], **node.kwargs)  # type: ignore[arg-type]
        return node

    def _argument(self, value: Any) -> Any:
        if _hides(value):
            return self.floor
        if not isinstance(value, Node):
            return value
        if value.op == "get_attr":
            tensor = read(self.graph_module, value)
            hidden = _hidden(tensor)
            if hidden is None:
                return value
            return self.emit.constant("unmasked", tensor.masked_fill(hidden, self.floor))
        return self.clean(value)

    def _sum(self, node: Node) -> Node:
        """Scores plus a mask that holds -inf."""
        for place, mask in enumerate(node.args[:2]):
            if not isinstance(mask, Node):
                continue
            if mask.op == "get_attr":
                closed = _hidden(read(self.graph_module, mask))
                if closed is None:
                    continue
                hidden = self.emit.constant("hidden", closed)
            elif mask in self.given and is_float(mask):
                hidden = self.emit.call(aten.le.Scalar, mask, HIDDEN)
            else:
                continue
            other = node.args[1 - place]
            assert isinstance(other, Node)
            scores = self.clean(other)
            shown = node if scores is other else self.emit.call(aten.add.Tensor, scores, mask)
            dtype = node.meta["val"].dtype
            floor = self.emit.constant("floor", torch.tensor(self.floor, dtype=dtype))
            return self.emit.call(aten.where.self, hidden, floor, shown)
        inner = [self.clean(a) if isinstance(a, Node) else a for a in node.args]
        if all(a is b for a, b in zip(inner, node.args, strict=True)):
            return node
        return self.emit.call(node.target, *inner, **node.kwargs)  # type: ignore[arg-type]


def _hides(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= HIDDEN


def _hidden(tensor: Tensor) -> Tensor | None:
    """Where a constant hides what it is added to or stands for; None if nowhere."""
    hidden = tensor <= HIDDEN if tensor.is_floating_point() else torch.zeros((), dtype=torch.bool)
    return hidden if bool(hidden.any()) else None
