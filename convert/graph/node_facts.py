"""What a node of a captured graph names, where it comes from, and how large its value is."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node


def read(graph_module: GraphModule, node: Node) -> Any:
    """The tensor that a get_attr node names."""
    value: Any = graph_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def where(node: Node) -> str:
    """Module path of the call that a node came from, or its line of the source."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    path = path.removeprefix("L['self'].").removeprefix("L['self']")
    if path:
        return path
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    return f"{lines[-1][0].rpartition('/')[2]}:{lines[-1][1]}" if lines else "the model's forward"


def size(value: Any) -> int:
    """A length as a number: a symbolic one by the batch it was captured with."""
    if isinstance(value, int):
        return value
    return int(value.node.hint)


def shape_of(node: Node) -> tuple[int | str, ...]:
    """A shape with ``batch``, or an expression of it, where the batch size decides a length."""
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else ()
    return tuple(
        length if isinstance(length, int) else re.sub(r"\b[su]\d+\b", "batch", str(length))
        for length in shape
    )


def numel(node: Node) -> int:
    """Elements of a node's value for the batch that was captured."""
    return math.prod(size(length) for length in node.meta["val"].shape)


def captured_batch(graph: Graph) -> int:
    """Images of the batch that was captured."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and "batch" in node.meta:
            return int(node.meta["batch"])  # a loaded graph has numbers for symbols
        if node.op == "placeholder" and isinstance(value, Tensor):
            for length in value.shape:
                if not isinstance(length, int):
                    return size(length)
    return 1
