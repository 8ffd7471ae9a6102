"""Max pooling and row maxima that can be tournaments: where they are, and over which windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from ..graph.operators import Kind, is_aten, kind_of
from ..graph.regions import is_float, packet
from .tournament import Window

_MINUS = float("-inf")
# What a mask writes, or adds to a score, is no larger: -inf, the least number of a type, -1e4.
HIDDEN = -9e3


@dataclass
class Maximum:
    """A maximum of the graph over windows of fixed length.

    Args:
        node: the operation.
        result: the node of its values: the operation, or what takes them from it.
        source: the tensor.
        axes: of the source, each with the windows along it.
        keepdim: whether an axis that is left with one place stays, for row maxima.
        sign: -1 for a minimum.
        floor: smallest row maximum on calibration data, in place of what a mask hides.
        masked: whether calibration met -inf.
    """

    node: Node
    result: Node
    source: Node
    axes: dict[int, list[Window]]
    keepdim: bool = True
    sign: int = 1
    floor: float = math.inf
    masked: bool = field(default=False)

    @property
    def pools(self) -> bool:
        """Whether it is a pooling and no maximum of rows."""
        return _is_pool(self.node)

    def whole(self) -> list[int]:
        """The axes of which one window takes everything."""
        shape = self.source.meta["val"].shape
        return [
            axis
            for axis, windows in self.axes.items()
            if windows == [tuple(range(int(shape[axis])))]
        ]

    def see(self, x: Tensor) -> None:
        """Takes note of the source's values on calibration data."""
        x = self.sign * x
        self.masked |= bool((x == _MINUS).any())
        if not self.pools:
            rows = x.amax(list(self.axes))
            rows = rows[(rows > HIDDEN) & rows.isfinite()]
            self.floor = min(self.floor, float(rows.min())) if rows.numel() else self.floor


def find_maxima(graph_module: GraphModule) -> tuple[list[Maximum], list[str]]:
    """Every maximum that can be a tournament, and notes on those that can't."""
    found, notes = [], []
    for node in graph_module.graph.nodes:
        name = packet(node) if is_aten(node) else ""
        read = _pool if _is_pool(node) else _READ.get(name)
        if read is None or not node.args or not is_float(node.args[0]):
            continue
        values = _values(node)
        if values is None:
            notes.append(f"{name} stays as it is: its indices are used")
            continue
        maximum = read(node, values)
        if maximum is None:
            notes.append(f"{name} stays as it is: a tournament needs a fixed number of values")
        else:
            found.append(maximum)
    return found, list(dict.fromkeys(notes))


def _is_pool(node: Node) -> bool:
    return kind_of(node) is Kind.MAXIMUM and "pool" in packet(node)


def _values(node: Node) -> Node | None:
    """The node of the maxima; None where their places are read too."""
    if isinstance(node.meta["val"], Tensor):
        return node
    users = list(node.users)
    plain = len(users) == 1 and packet(users[0]) == "getitem" and users[0].args[1] == 0
    return users[0] if plain else None


def _argument(node: Node, name: str, default: Any) -> Any:
    declared = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    place = declared.index(name) if name in declared else len(declared)
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)


def _pool(node: Node, result: Node) -> Maximum | None:
    source: Any = node.args[0]
    name = packet(node)
    rank = int(name[name.index("pool") + 4])
    shape = source.meta["val"].shape
    places = result.meta["val"].shape[-rank:]
    lengths = shape[-rank:]
    if not all(isinstance(n, int) for n in (*lengths, *places)):
        return None
    axes: dict[int, list[Window]] = {}
    for i, (length, count) in enumerate(zip(lengths, places, strict=True)):
        if name.startswith("adaptive"):
            ends = [(j * length // count, -((j + 1) * length // -count)) for j in range(count)]
            windows = [tuple(range(a, b)) for a, b in ends]
        else:
            kernel = _each(_argument(node, "kernel_size", 1), i)
            stride = _each(_argument(node, "stride", None) or kernel, i)
            padding = _each(_argument(node, "padding", 0), i)
            dilation = _each(_argument(node, "dilation", 1), i)
            taps = [
                range(j * stride - padding, j * stride - padding + kernel * dilation, dilation)
                for j in range(count)
            ]
            windows = [tuple(t for t in tap if 0 <= t < length) for tap in taps]
        if not all(windows):
            return None
        axes[len(shape) - rank + i] = windows
    return Maximum(node, result, source, axes)


def _each(value: Any, axis: int) -> int:
    if isinstance(value, int):
        return value
    return int(value[axis] if len(value) > 1 else value[0])


def _rows(node: Node, result: Node) -> Maximum | None:
    source: Any = node.args[0]
    shape = source.meta["val"].shape
    dims = _argument(node, "dim", [])
    dims = [dims] if isinstance(dims, int) else list(dims or range(len(shape)))
    dims = sorted({d % len(shape) for d in dims})
    if not dims or not all(isinstance(shape[d], int) and shape[d] for d in dims):
        return None
    axes = {d: [tuple(range(shape[d]))] for d in dims}
    sign = 1 if packet(node) in ("amax", "max") else -1
    return Maximum(node, result, source, axes, bool(_argument(node, "keepdim", False)), sign)


_READ: dict[str, Callable[[Node, Node], Maximum | None]] = {
    "amax": _rows,
    "amin": _rows,
    "max": _rows,
    "min": _rows,
}
