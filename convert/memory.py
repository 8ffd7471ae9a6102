"""Which neurons may write their output over their input."""

from __future__ import annotations

import torch
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


def overwritable(graph: Graph, paths: set[str]) -> set[str]:
    """Paths of the neurons whose input is freshly computed and read by nobody else.

    Args:
        graph: of the spiking network.
        paths: of its neurons.
    """
    return {
        str(node.target)
        for node in graph.nodes
        if node.op == "call_module" and str(node.target) in paths and _own(node.args[0])
    }


def _own(node: object) -> bool:
    while isinstance(node, Node) and node.op == "call_function" and len(node.users) == 1:
        packet = getattr(node.target, "overloadpacket", None)
        if packet in _FRESH:
            return True
        if packet not in _VIEWS:
            return False
        node = node.args[0]
    return False
