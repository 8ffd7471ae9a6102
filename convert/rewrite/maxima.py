"""Max pooling and row maxima as tournaments of ReLUs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ..graph import fold
from ..graph.edit import Emitter
from ..graph.operators import operator_of
from ..graph.origins import OUTPUT_OF
from ..graph.region_function import extract
from ..graph.regions import Regions, is_float, packet
from .tournament import Window, maximum

aten = torch.ops.aten

_MINUS = float("-inf")
# What a mask writes, or adds to a score, is no larger: -inf, the least number of a type, -1e4.
_HIDDEN = -9e3
_POOLS = tuple(
    form.format(n)
    for n in (1, 2, 3)
    for form in ("max_pool{}d", "max_pool{}d_with_indices", "adaptive_max_pool{}d")
)
# Points at which a function has to rise for its maximum to be that of its largest input.
_POINTS, _REACH = 20_001, 12.0


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
        return packet(self.node) in _POOLS

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
            rows = rows[(rows > _HIDDEN) & rows.isfinite()]
            self.floor = min(self.floor, float(rows.min())) if rows.numel() else self.floor


def find_maxima(graph_module: GraphModule) -> tuple[list[Maximum], list[str]]:
    """Every maximum that can be a tournament, and notes on those that can't."""
    found, notes = [], []
    for node in graph_module.graph.nodes:
        name = packet(node) if node.op == "call_function" else ""
        read = _pool if name in _POOLS else _READ.get(name)
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


def pool_first(graph_module: GraphModule, maxima: list[Maximum]) -> list[Maximum]:
    """Moves poolings before the monotone activation that precedes them; those that were moved.

    The maximum of f is f of the maximum where f never falls.
    """
    moved: list[Maximum] = []
    regions = Regions(graph_module)
    for each in maxima:
        value = each.source
        if not each.pools or len(value.users) > 1 or not regions.form[value].atoms:
            continue
        head = regions.head(value)
        if not is_float(head) or not _rises(extract(regions, head, value)):
            continue
        inside = _between(graph_module, regions, head, value)
        after = Emitter(graph_module, each.result.next)
        each.node.replace_input_with(value, head)
        each.source = head
        readers = list(each.result.users)
        copies: dict[Node, Node] = {head: each.result}
        for node in inside:
            arguments: Any = (node.args, node.kwargs)
            args, kwargs = map_arg(arguments, partial(_copied, copies))
            copies[node] = after.call(node.target, *args, **kwargs)  # type: ignore[arg-type]
            meta = {key: value for key, value in node.meta.items() if key != OUTPUT_OF}
            copies[node].meta = meta | {"val": copies[node].meta["val"]}
        if OUTPUT_OF in each.result.meta:
            copies[value].meta[OUTPUT_OF] = each.result.meta.pop(OUTPUT_OF)
        for reader in readers:
            reader.replace_input_with(each.result, copies[value])
        moved.append(each)
        regions = Regions(graph_module)
    fold.tidy(graph_module)
    return moved


def _copied(copies: dict[Node, Node], node: Node) -> Node:
    return copies.get(node, node)


def _between(graph_module: GraphModule, regions: Regions, head: Node, value: Node) -> list[Node]:
    """The operations of a region from its head to a value, in order."""
    wanted, waiting = set(), [value]
    while waiting:
        node = waiting.pop()
        if node is not head and node not in wanted and node in regions.varying:
            wanted.add(node)
            waiting += node.all_input_nodes
    return [node for node in graph_module.graph.nodes if node in wanted]


def _rises(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether f never falls, on points that are dense near 0 and reach far."""
    x = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64).sinh()
    with torch.no_grad():
        y = function(x)
    steps = y.diff()
    slack = 1e-12 * y[:-1].abs().clamp_min(1e-300)
    return bool(y.isfinite().all()) and bool((steps >= -slack).all())


def take_maxima_apart(graph_module: GraphModule, maxima: list[Maximum]) -> list[Maximum]:
    """Makes maxima tournaments; those whose masks are beyond reach stay and are returned."""
    left = []
    # A maximum of maxima reads what the first one became.
    became: dict[Node, Node] = {}
    given = Regions(graph_module).given
    for each in maxima:
        emit = Emitter(graph_module, each.result)
        each.source = value = became.get(each.source, each.source)
        if not each.pools:
            value = _Unmasked(emit, each, given).clean(value)
        if each.masked and value is each.source:
            left.append(each)
            continue
        became[each.result] = _apart(emit, each, value)
    fold.tidy(graph_module)
    return left


def _apart(emit: Emitter, each: Maximum, value: Node) -> Node:
    call = emit.call
    if each.sign < 0:
        value = call(aten.neg.default, value)
    axes, level = dict(each.axes), 1
    shape, whole = value.meta["val"].shape, each.whole()
    if len(whole) > 1 and whole == list(range(whole[0], len(shape))):
        # All of several axes at once has fewer levels than one axis after the other.
        size = [
            n if isinstance(n, int) else call(aten.sym_size.int, value, axis)
            for axis, n in enumerate(shape[: whole[0]])
        ]
        value = call(aten.reshape.default, value, [*size, math.prod(shape[whole[0] :])])
        windows = [tuple(range(math.prod(shape[whole[0] :])))]
        value, level = maximum(emit, value, whole[0], windows, level)
        value = call(aten.reshape.default, value, [*size, *[1] * len(whole)])
        axes = {axis: windows for axis, windows in axes.items() if axis not in whole}
    for axis, windows in axes.items():
        value, level = maximum(emit, value, axis, windows, level)
    if each.sign < 0:
        value = call(aten.neg.default, value)
    if not each.keepdim:
        value = call(aten.squeeze.dims, value, list(each.axes))
    emit.replace(each.result, value)
    return value


class _Unmasked:
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
            tensor = fold.read(self.graph_module, value)
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
                closed = _hidden(fold.read(self.graph_module, mask))
                if closed is None:
                    continue
                hidden = self.emit.constant("hidden", closed)
            elif mask in self.given and is_float(mask):
                hidden = self.emit.call(aten.le.Scalar, mask, _HIDDEN)
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
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= _HIDDEN


def _hidden(tensor: Tensor) -> Tensor | None:
    """Where a constant hides what it is added to or stands for; None if nowhere."""
    hidden = tensor <= _HIDDEN if tensor.is_floating_point() else torch.zeros((), dtype=torch.bool)
    return hidden if bool(hidden.any()) else None
