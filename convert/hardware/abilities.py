"""Which operations of a graph whole numbers can do, and how."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..graph.node_facts import size
from ..graph.operators import Kind, is_aten, operator_of
from ..graph.regions import packet
from ..inspect.synapses import SUMS, Connection, Passage
from ..neuron.few_spikes import FewSpikesNeuron
from .records import Op

JOINS = ("cat", "concat", "stack")
_MAXIMA = ("max_pool2d", "amax", "adaptive_max_pool2d")
_WINDOWS = ("mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d")
# They copy values to several places, and so are as good as a layout.
_COPIES = ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
# They take values apart or write some into others: a mask or a second signal is read.
_NO_MOVE = (
    "_unsafe_index_put", "index_put", "index_add", "scatter", "scatter_add", "slice_scatter",
    "select_scatter", "copy", "as_strided", "gather",
)  # fmt: skip
_MATRICES = {"linear": 1, "addmm": 2, "mm": 1, "matmul": 1}
# Arguments of a batch norm.
WEIGHT, BIAS, MEAN, VARIANCE, EPSILON = 1, 2, 3, 4, 7


class Abilities:
    """What whole numbers can do in one network.

    Args:
        network: its graph, sites called as modules.
        connections: its operations on signals.
        constants: values of nodes that depend on no input.
    """

    def __init__(
        self,
        network: GraphModule,
        connections: Mapping[Node, Connection],
        constants: Mapping[Node, Any],
    ) -> None:
        self.network, self.connections, self.constants = network, connections, constants
        self.op: dict[Node, Op] = {}
        for node, connection in connections.items():
            whole = {n for n, op in self.op.items() if op is not Op.FLOAT}
            self.op[node] = self._op(node, connection, whole)

    def _op(self, node: Node, connection: Connection, whole: Collection[Node]) -> Op:
        if connection.passage is Passage.SITE:
            spikes = isinstance(self.network.get_submodule(str(node.target)), FewSpikesNeuron)
            return Op.NEURON if spikes else Op.FLOAT
        if not self._real(node) or not (packet(node) == "getitem" or is_aten(node)):
            return Op.FLOAT
        if self._weighted(node, connection):
            return Op.WEIGHTS
        if self._scaled(node, connection):
            return Op.SCALE
        name, row = packet(node), operator_of(node)
        if not connection.signals or not all(signal in whole for signal in connection.signals):
            return Op.FLOAT
        if name in _MAXIMA:
            return Op.MAXIMUM
        if not connection.linear:
            return Op.FLOAT
        if name in SUMS:
            return Op.SUM if self._added(node, connection) else Op.FLOAT
        if name in ("mul", "div") and connection.passage is Passage.ROUTE:
            return Op.SUM if self.factor(node) not in (None, 0.0) else Op.FLOAT
        if name in JOINS:
            listed: Any = node.args[0]
            others = [a for a in listed if a not in connection.signals]
            return Op.JOIN if all(self.size(a) is not None for a in others) else Op.FLOAT
        if name in _WINDOWS:
            return Op.WINDOW if self.window(node) is not None else Op.FLOAT
        moves = row is not None and row.layout and name not in _NO_MOVE and self._blank(node)
        alone = len(connection.signals) == 1 and node.args[:1] == (connection.signals[0],)
        return Op.MOVE if (moves or name in _COPIES) and alone else Op.FLOAT

    @staticmethod
    def _real(node: Node) -> bool:
        """Whether all its values are real numbers; tuples of them, too."""
        value = node.meta.get("val")
        found = value if isinstance(value, tuple | list) else [value]
        return all(v is None or (isinstance(v, Tensor) and v.is_floating_point()) for v in found)

    def _constant(self, value: Any) -> bool:
        return value is None or (isinstance(value, Node) and value in self.constants)

    def _weighted(self, node: Node, connection: Connection) -> bool:
        """Whether it is a convolution or a matrix product with fixed weights."""
        name, row = packet(node), operator_of(node)
        if row is None or not connection.linear or len(connection.signals) != 1 or node.kwargs:
            return False
        if row.convolves and row.weight == 1 and name.startswith("conv"):
            given = node.args[:1] == connection.signals
            return given and self._constant(node.args[1]) and self._constant(bias_of(node))
        if name not in _MATRICES:
            return False
        place = _MATRICES[name]
        weight = node.args[place]
        fixed = self._constant(weight) and self._constant(bias_of(node))
        flat = fixed and self.constants[weight].dim() == 2  # type: ignore[index]
        return flat and node.args[place - 1] is connection.signals[0]

    def _scaled(self, node: Node, connection: Connection) -> bool:
        """Whether every channel has a fixed factor."""
        row = operator_of(node)
        if row is None or not connection.linear or len(connection.signals) != 1:
            return False
        if row.kind is Kind.AFFINE:
            rest = node.args[1:5]
            return row.name == "_native_batch_norm_legit_no_training" and all(
                map(self._constant, rest)
            )
        return (
            row.name == "mul"
            and connection.passage is Passage.WEIGHTS
            and not node.kwargs
            and all(a is connection.signals[0] or self._constant(a) for a in node.args)
        )

    def _added(self, node: Node, connection: Connection) -> bool:
        """Whether what is added beside signals is constant."""
        others = [a for a in node.args if a not in connection.signals]
        return all(isinstance(a, int | float) or self.size(a) is not None for a in others)

    def size(self, value: Any) -> float | None:
        """The largest size of a tensor that depends on no signal; None where it isn't known."""
        if not isinstance(value, Node) or not self._real(value):
            return None
        known = self.constants.get(value)
        if isinstance(known, Tensor):
            finite = bool(known.isfinite().all())
            return float(known.abs().max()) if finite and known.numel() else None
        row = operator_of(value)
        copied = row is not None and row.layout and packet(value) not in (*_NO_MOVE, *JOINS)
        return self.size(value.args[0]) if copied and self._blank(value) else None

    def factor(self, node: Node) -> float | None:
        """The number that a product or quotient multiplies its signal by; None if there is none."""
        if node.kwargs or len(node.args) != 2:
            return None
        signal, other = node.args
        if other in self.connections and packet(node) == "mul":
            signal, other = other, signal
        value = self.constants.get(other) if isinstance(other, Node) else other
        if isinstance(value, Tensor) and value.numel() == 1:
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if packet(node) == "mul" else 1.0 / float(value)

    def window(self, node: Node) -> int | None:
        """Over how many values a mean is taken, 1 for a sum; None where that differs by place."""
        name, taken = packet(node), node.args[0]
        assert isinstance(taken, Node)
        shape = [size(n) for n in taken.meta["val"].shape]
        if name == "sum":
            return None if node.kwargs or not self._fixed(taken, node) else 1
        if name == "mean":
            made = [size(n) for n in node.meta["val"].shape]
            counted = _product(shape) // max(_product(made), 1)
            return None if node.kwargs or not self._fixed(taken, node) else counted
        if name == "avg_pool2d":
            kernel, padding, ceil, inside, divisor = _pooling(node)
            if ceil or divisor is not None or (any(padding) and not inside):
                return None
            return kernel[0] * kernel[1]
        made = [size(n) for n in node.meta["val"].shape]
        if not all(isinstance(n, int) for n in taken.meta["val"].shape[-2:]):
            return None
        if any(a % b for a, b in zip(shape[-2:], made[-2:], strict=True)):
            return None
        return _product(shape[-2:]) // _product(made[-2:])

    @staticmethod
    def _fixed(taken: Node, node: Node) -> bool:
        """Whether the axes of a mean or sum have lengths that stay."""
        return all(isinstance(taken.meta["val"].shape[a], int) for a in dims_of(node))

    def _blank(self, node: Node) -> bool:
        """Whether what a layout fills places with is 0."""
        if packet(node) in ("constant_pad_nd", "pad"):
            filled = [a for a in node.args[2:] if isinstance(a, int | float)]
            modes = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, str)]
            named = node.kwargs.get("value")
            return not any(filled) and not named and all(mode == "constant" for mode in modes)
        return True


def bias_of(node: Node) -> Any:
    """The bias of a convolution or matrix product; None for none."""
    row = operator_of(node)
    if row is None or row.bias is None or len(node.args) <= row.bias:
        return None
    return node.args[row.bias]


def weight_of(node: Node) -> Any:
    """The node of a convolution's or matrix product's weights."""
    return node.args[_MATRICES.get(packet(node), 1)]


def out_axis(node: Node, weight: Tensor) -> int | None:
    """The axis of a weight's output channels; None where groups share it."""
    name = packet(node)
    if name in ("mm", "matmul", "addmm"):
        return 1
    if name == "linear":
        return 0
    transposed = name.startswith("conv_transpose") or (name == "convolution" and node.args[6])
    if not transposed:
        return 0
    place = 8 if name == "convolution" else 6
    groups = node.args[place] if len(node.args) > place else 1
    return 1 if groups == 1 else None


def channel_axis(node: Node) -> int:
    """The axis of the channels in a weighted operation's result."""
    row = operator_of(node)
    if row is None or not row.convolves:
        return -1
    return node.meta["val"].dim() - (weight_of(node).meta["val"].dim() - 1)


def dims_of(node: Node) -> list[int]:
    """The axes of a mean or sum."""
    given: Any = node.args[1] if len(node.args) > 1 else None
    taken: Any = node.args[0]
    rank = taken.meta["val"].dim()
    if given is None or given == []:
        return list(range(rank))
    return [d % rank for d in (given if isinstance(given, list | tuple) else [given])]


def _pooling(node: Node) -> tuple[list[int], list[int], bool, bool, Any]:
    """Kernel, padding, ceil, whether padding counts, and another divisor, of an average pooling."""
    defaults: tuple[Any, ...] = (None, [], 0, False, True, None)
    given: list[Any] = list(node.args[1:])
    kernel, _, padding, ceil, inside, divisor = [*given, *defaults[len(given) :]]

    def pair(value: Any) -> list[int]:
        both = list(value) if isinstance(value, list | tuple) else [value]
        return both * 2 if len(both) == 1 else both

    return pair(kernel), pair(padding), bool(ceil), bool(inside), divisor


def _product(numbers: Collection[int]) -> int:
    return int(torch.tensor(list(numbers), dtype=torch.int64).prod())
