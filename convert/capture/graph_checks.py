"""What torch.export takes and this package can't: branches in the graph, sizes made of values."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from ..common.messages import is_users, quoted
from ..errors import CaptureError

_BRANCHES = {"cond", "while_loop", "scan", "associative_scan", "map_impl", "switch"}


def check_graph(graph: Graph) -> None:
    """Refuses an exported graph with branches or loops inside, or with sizes made of values.

    Raises:
        CaptureError: with the line of forward that makes them.
    """
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "")
        parts = [_module_of(graph, argument) for argument in node.all_input_nodes]
        if name in _BRANCHES and any(part is not None for part in parts):
            raise CaptureError(
                f"forward calls torch's {name.removesuffix('_impl')}{_at(node)}, into which no "
                "neuron can be put; compute both sides and choose by torch.where, or write the "
                "loop out"
            )
        if node.op == "call_function" and _sized_by_values(node.meta.get("val")):
            raise CaptureError(
                f"forward makes a tensor whose size depends on values{_at(node)}; keep all "
                "elements and choose by torch.where or a mask"
            )


def reads_values(graph: Graph) -> bool:
    """Whether a graph takes numbers out of tensors."""
    read = torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default
    return any(node.target in read for node in graph.nodes)


def _module_of(graph: Graph, node: Node) -> Any:
    if node.op != "get_attr" or graph.owning_module is None:
        return None
    part = getattr(graph.owning_module, str(node.target), None)
    return part if isinstance(part, GraphModule) else None


def _sized_by_values(value: Any) -> bool:
    # It loads sympy, as an export does, and the package by itself doesn't.
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return any(
        bool(free_unbacked_symbols(leaf.shape))
        for leaf in pytree.tree_leaves(value)
        if isinstance(leaf, torch.Tensor)
    )


def _at(node: Node) -> str:
    """The innermost line of the user's code that made a node."""
    trace = str(node.meta.get("stack_trace") or "")
    lines = re.findall(r'File "([^"]+)", line (\d+)', trace)
    for filename, number in reversed(lines):
        if is_users(filename):
            return f" at {quoted(filename, int(number))}"
    return ""
