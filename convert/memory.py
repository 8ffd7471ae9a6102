"""Which neurons, sums and products may write their output over their input."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

aten = torch.ops.aten

# Operations whose result is memory of their own.
_FRESH = frozenset({
    aten.linear, aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution, aten.addmm, aten.mm,
    aten.bmm, aten.baddbmm, aten.matmul, aten.add, aten.sub, aten.mul, aten.div, aten.neg,
    aten.sum, aten.mean, aten.cat, aten.avg_pool2d, aten._adaptive_avg_pool2d,
    aten.max_pool2d, aten.layer_norm, aten.native_layer_norm, aten.native_group_norm,
    aten._native_batch_norm_legit_no_training,
})  # fmt: skip
# Operations whose result may be the memory of their first argument.
_VIEWS = frozenset({
    aten.view, aten._unsafe_view, aten.reshape, aten.flatten, aten.permute, aten.transpose,
    aten.unsqueeze, aten.squeeze,
})  # fmt: skip


_IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
}


def overwritable(graph: Graph, paths: Collection[str]) -> set[str]:
    """Paths of the neurons whose input is freshly computed and read by nobody else.

    Args:
        graph: of the spiking network.
        paths: of its neurons.
    """
    return {
        str(node.target)
        for node in graph.nodes
        if node.op == "call_module" and str(node.target) in paths and _own(node.args[0], ())
    }


def frugal(graph: Graph, paths: Collection[str]) -> Callable[..., Any]:
    """The graph as a function of its module and inputs whose sums and products reuse memory.

    It computes the same bits, without gradients. Nobody may keep what passes by: with a hook on a
    neuron, run the module itself.

    Args:
        graph: of the spiking network.
        paths: of its neurons.
    """
    copied = Graph()
    values: dict[Node, Node] = {}
    copied.output(copied.graph_copy(graph, values))
    neurons = overwritable(graph, paths)
    for node, new in values.items():
        in_place = _IN_PLACE.get(node.target)  # type: ignore[arg-type]
        if in_place is None:
            continue
        first, second = node.args[:2]
        if _reusable(node, first, neurons):
            new.target = in_place
        elif (
            node.target is not aten.sub.Tensor
            and not node.kwargs
            and _reusable(node, second, neurons)
        ):
            new.target, new.args = in_place, (new.args[1], new.args[0])
    code = copied.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)  # our own graph, written by torch.fx as GraphModule does it
    return names["forward"]  # type: ignore[no-any-return]


def _reusable(node: Node, operand: Any, neurons: Collection[str]) -> bool:
    """Whether the result of a node fits into the memory of an operand that nobody else reads."""
    if not _own(operand, neurons):
        return False
    result, given = node.meta.get("val"), operand.meta.get("val")
    return (
        isinstance(result, Tensor)
        and isinstance(given, Tensor)
        and result.dtype == given.dtype
        and str(result.shape) == str(given.shape)
        and str(result.stride()) == str(given.stride())
    )


def _own(node: Any, neurons: Collection[str]) -> bool:
    while isinstance(node, Node) and len(node.users) == 1:
        if node.op == "call_module":
            return str(node.target) in neurons
        packet = getattr(node.target, "overloadpacket", None)
        if packet in _FRESH:
            return True
        if packet not in _VIEWS:
            return False
        node = node.args[0]
    return False
