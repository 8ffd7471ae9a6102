"""What every operation of a network with sites is: spiking, synaptic, a product, or remaining.

Beside these stands what prepares masks and indices that come with the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .node_facts import captured_batch, shape_of, size, where
from .operators import Kind, Operator, is_aten, kind_of, operator_of
from .regions import Regions, is_pointwise, packet

# The shapes of values.
Shapes = Callable[[Node], Sequence[int]]
# The mode of an embedding bag that keeps the largest of its rows.
_LARGEST = 2


class Role(StrEnum):
    """What an operation of a network with sites is; equal to its plain word."""

    SPIKING = "spiking"  # a site: a few-spikes neuron
    SYNAPTIC = "synaptic"  # linear or affine in its one varying input, or a sum of signals
    PRODUCT = "product"  # linear in each of two signals
    REMAINING = "remaining"  # a nonlinearity that is left as it was
    GIVEN = "given"  # on whole numbers and masks that come with the input


class Signal(StrEnum):
    """What a value is; equal to its plain word."""

    SPIKES = "spikes"  # every path from it back to the input ends at a site, linearly
    ANALOG = "analog"  # any other


@dataclass(frozen=True)
class Operation:
    """One operation of the graph.

    Args:
        kind: what it is.
        op: its name.
        inputs: spikes or analog, for each varying input.
        where: module path of the call, or the line of the source.
        multiply_accumulates: for one image; 0 for sums, layouts and what remains.
        node: the graph node; None in a report that was pickled by itself.
        shapes: of the varying inputs; ``batch`` and expressions of it stand for its size.
    """

    kind: Role
    op: str
    inputs: tuple[Signal, ...]
    where: str
    multiply_accumulates: int
    node: Node
    shapes: tuple[tuple[int | str, ...], ...] = ()

    def __post_init__(self) -> None:
        # Plain words become members; others are refused with a ValueError that names them.
        object.__setattr__(self, "kind", Role(self.kind))
        object.__setattr__(self, "inputs", tuple(map(Signal, self.inputs)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Operation:
        """Itself: nothing of it changes, and its node stays in its graph."""
        return self

    def __reduce__(self) -> Any:
        """Pickled without its node, which a graph alone has: for reports and evaluations."""
        rest = self.kind, self.op, self.inputs, self.where, self.multiply_accumulates
        return Operation, (*rest, None, self.shapes)

    @property
    def signal(self) -> Signal:
        """Spikes if every varying input is spike-coded, else analog."""
        return _joint(self.inputs)


def operations(
    graph_module: GraphModule, sites: set[str], single: Shapes | None = None
) -> list[Operation]:
    """Every operation on a varying tensor, in graph order.

    Args:
        graph_module: a captured graph whose sites are called as modules.
        sites: paths of those modules.
        single: shapes of all values for one image, where its lengths aren't those that were
            captured.
    """
    regions = Regions(graph_module)
    batch = captured_batch(graph_module.graph) if single is None else 1
    signal: dict[Node, Signal] = {}
    found = []
    for node in graph_module.graph.nodes:
        if node not in regions.varying:
            continue
        if node.op == "placeholder":
            signal[node] = Signal.ANALOG
            continue
        if node.op not in ("call_function", "call_module"):
            continue
        if node in regions.given:
            found.append(Operation(Role.GIVEN, packet(node), (), where(node), 0, node))
            signal[node] = Signal.ANALOG
            continue
        read = operands(node, regions)
        inputs = tuple(signal[operand] for operand in read)
        kind = _kind(node, regions, read, sites)
        if kind is Role.SPIKING:
            signal[node] = Signal.SPIKES
        else:
            signal[node] = _joint(inputs) if kind is Role.SYNAPTIC else Signal.ANALOG
        if packet(node) == "getitem":
            continue
        count = _multiply_accumulates(node, kind, read, batch, single or _captured)
        shapes = tuple(shape_of(operand) for operand in read)
        found.append(Operation(kind, packet(node), inputs, where(node), count, node, shapes))
    return found


def _joint(inputs: Iterable[Signal]) -> Signal:
    """What a linear operation makes of its inputs."""
    return Signal.SPIKES if all(i is Signal.SPIKES for i in inputs) else Signal.ANALOG


def operands(node: Node, regions: Regions) -> list[Node]:
    """The signals that an operation reads; the whole numbers that it reads where there is none."""
    return list(_read(node, regions.signals)) or list(_read(node, regions.varying))


def _read(node: Node, varying: set[Node]) -> Iterator[Node]:
    """Varying inputs, one entry for every place where one is read."""
    stack: list[Any] = [*reversed(list(node.kwargs.values())), *reversed(node.args)]
    while stack:
        value = stack.pop()
        if isinstance(value, Node) and value in varying:
            yield value
        elif isinstance(value, tuple | list):
            stack.extend(reversed(value))


def _kind(node: Node, regions: Regions, operands: list[Node], sites: set[str]) -> Role:
    if node.op == "call_module":
        return Role.SPIKING if str(node.target) in sites else Role.REMAINING
    row = operator_of(node)
    if not operands or packet(node) == "getitem":
        return Role.SYNAPTIC
    given = all(operand in regions.given for operand in operands)
    if row is not None and row.looks_up and node.args[0] not in regions.varying:
        # A row of a table for a whole number: linear in its one-hot code, as is a sum of rows.
        largest = "embedding_bag" in row.name and node.args[4:5] == (_LARGEST,)
        return Role.SYNAPTIC if given and not largest else Role.REMAINING
    if given:
        # Where whole numbers become a signal.
        multiplied = row is not None and row.weighted and len(operands) > 1
        begins = row is not None and not multiplied and (row.linear or row.kind is Kind.CAST)
        return Role.SYNAPTIC if begins or _divides(node, operands) else Role.REMAINING
    if not _keeps_numbers(node, operands):
        return Role.REMAINING
    if row is not None and (row.linear or row.kind is Kind.AFFINE):
        return _linear_kind(node, row, regions, operands)
    return _pointwise_kind(node, regions, operands) if is_pointwise(node) else Role.REMAINING


def _linear_kind(node: Node, row: Operator, regions: Regions, operands: list[Node]) -> Role:
    """What an operation is that is linear in its one varying input."""
    if row.kind is Kind.SUM:
        return Role.SYNAPTIC
    if row.weighted and (len(operands) > 1 or row.name == "bilinear"):
        return Role.PRODUCT if _bilinear(node, row, operands) else Role.REMAINING
    if row.weighted:
        return Role.SYNAPTIC
    if row.kind is Kind.AFFINE:
        return Role.SYNAPTIC if len(operands) == 1 else Role.REMAINING
    return Role.SYNAPTIC if _first_only(node, regions.signals) else Role.REMAINING


def _keeps_numbers(node: Node, operands: Sequence[Node]) -> bool:
    """Whether no value is rounded to a whole number, or a truth value, on the way."""
    read = [o.meta["val"] for o in operands if isinstance(o.meta.get("val"), Tensor)]
    value = node.meta.get("val")
    real = any(t.is_floating_point() or t.is_complex() for t in read)
    for made in value if isinstance(value, tuple | list) else (value,):
        if not isinstance(made, Tensor):
            continue
        if made.dtype == torch.bool and any(t.dtype != torch.bool for t in read):
            return False
        if real and not (made.is_floating_point() or made.is_complex()):
            return False
    return True


def _pointwise_kind(node: Node, regions: Regions, operands: list[Node]) -> Role:
    """What a pointwise operation is, whether or not its values are whole numbers."""
    name = packet(node) if is_aten(node) else ""
    if name in ("add", "sub", "rsub", "neg"):
        # The sum of truth values is no sum: it is true where any of them is.
        return Role.REMAINING if node.meta["val"].dtype == torch.bool else Role.SYNAPTIC
    if kind_of(node) in (Kind.CAST, Kind.IDENTITY):
        return Role.SYNAPTIC
    if name == "mul" and len(operands) == 2:
        # A tensor times itself is a function of one number.
        return Role.REMAINING if operands[0] is operands[1] else Role.PRODUCT
    if name == "mul" or _divides(node, operands):
        return Role.SYNAPTIC
    if name in ("where", "masked_fill"):
        # A mask that doesn't vary picks values: a sum of two masked signals.
        mask = node.args[0] if name == "where" else node.args[1]
        return Role.REMAINING if mask in regions.signals else Role.SYNAPTIC
    return Role.REMAINING


def _divides(node: Node, operands: Sequence[Node]) -> bool:
    """Whether an operation divides what varies by what doesn't."""
    plain = is_aten(node) and packet(node) == "div" and "rounding_mode" not in node.kwargs
    return plain and list(operands) == [node.args[0]]


def _first_only(node: Node, varying: set[Node]) -> bool:
    """Whether no index or length of a layout operation varies."""
    rest = [*node.args[1:], *node.kwargs.values()]
    name = packet(node)
    if name in ("select_scatter", "slice_scatter", "copy"):
        return True
    if name in ("index_put", "_unsafe_index_put"):
        rest = [node.args[1]]
    elif name in ("scatter", "scatter_add", "index_add"):
        rest = [node.args[2]]
    indices = [value for value in rest if isinstance(value, Node | tuple | list)]
    return not any(
        isinstance(value.meta.get("val"), Tensor)
        for index in indices
        for value in ([index] if isinstance(index, Node) else index)
        if isinstance(value, Node) and value in varying
    )


def _bilinear(node: Node, row: Operator, operands: list[Node]) -> bool:
    """Whether a matrix product of varying signals is linear in each of them."""
    if row.kind is Kind.MATRIX:
        return True
    if row.bias == 0:
        return node.args[0] not in operands
    return len(operands) == 2


def _captured(node: Node) -> Sequence[int]:
    """The shape of a value at capture."""
    return [size(length) for length in node.meta["val"].shape]


def _multiply_accumulates(
    node: Node, kind: Role, operands: list[Node], batch: int, shapes: Shapes
) -> int:
    """Multiply-accumulates of one image (the batch of the shapes is divided out)."""
    if kind not in (Role.SYNAPTIC, Role.PRODUCT) or not isinstance(node.meta.get("val"), Tensor):
        return 0
    row, out = operator_of(node), math.prod(shapes(node))
    if row is not None and row.convolves and row.weight is not None:
        weight: Any = node.args[row.weight]
        inner = math.prod(weight.meta["val"].shape[1:])
        if row.name.startswith("conv_transpose"):
            out = math.prod(shapes(operands[0]))
    elif row is not None and row.weighted:
        inner = shapes(operands[-1 if row.bias == 0 else 0])[-1]
        if row.kind is Kind.MATRIX and len(node.args) == 2 and operands[0] is node.args[1]:
            shape = shapes(operands[0])
            inner = shape[-2] if len(shape) > 1 else shape[-1]
    elif row is not None and (row.name == "mul" or row.kind is Kind.AFFINE):
        inner = 1
    else:
        return 0
    return round(out * inner / batch)
