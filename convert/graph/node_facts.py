"""What a node of a captured graph names, where it comes from, and how large its value is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

# What an input's node knows of its lengths that vary, and what the number of images is called.
SIZES = "sizes"
BATCH = "batch"


def read(graph_module: GraphModule, node: Node) -> Any:
    """The tensor that a get_attr node names."""
    value: Any = graph_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


@contextmanager
def without_data(mode: FakeTensorMode | None) -> Iterator[None]:
    """Inside, operations find the shape of what they return alone, symbolic lengths too.

    Operators that torch makes of others need its Python dispatcher for that: up to 2.11 their C++
    refuses symbolic lengths.
    """
    with mode or nullcontext(), enable_python_dispatcher(), torch.no_grad():
        yield


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


def mark_sizes(graph: Graph, shapes: Sequence[Sequence[int | str | None] | None]) -> None:
    """Notes on every input which of its lengths vary.

    Args:
        graph: just captured.
        shapes: of the flat inputs: None where the batch size goes, a name where another length
            varies; None for what is no tensor.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node, shape in zip(inputs, shapes, strict=True):
        node.meta[SIZES] = None if shape is None else tuple(shape)


def size_names(graph: Graph) -> dict[str, str]:
    """The names of a graph's symbols: ``batch`` for the number of images."""
    names: dict[str, str] = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or not isinstance(value, Tensor):
            continue
        marks = node.meta.get(SIZES) or [None] * value.dim()
        for length, mark in zip(value.shape, marks, strict=True):
            if not isinstance(length, int):
                names.setdefault(str(length), mark if isinstance(mark, str) else BATCH)
    return names


def shape_of(node: Node) -> tuple[int | str, ...]:
    """A shape with ``batch``, or an expression of it, where the batch size decides a length.

    Other lengths that vary stand there by their names.
    """
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else ()
    if all(isinstance(length, int) for length in shape):
        return tuple(shape)
    names = size_names(node.graph)
    return tuple(
        length if isinstance(length, int) else _named(str(length), names) for length in shape
    )


def _named(expression: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\b[su]\d+\b", lambda found: names.get(found[0], BATCH), expression)


def captured_batch(graph: Graph) -> int:
    """Images of the batch that was captured."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and "batch" in node.meta:
            return int(node.meta["batch"])  # a loaded graph has numbers for symbols
        if node.op == "placeholder" and isinstance(value, Tensor):
            marks = node.meta.get(SIZES) or [None] * value.dim()
            for length, mark in zip(value.shape, marks, strict=True):
                if not isinstance(length, int) and mark is None:
                    return size(length)
    return 1


def has_batch(length: Any, names: Mapping[str, str]) -> bool:
    """Whether the number of images decides a length.

    Args:
        length: a number, or an expression of symbols.
        names: of the symbols; see `size_names`.
    """
    if isinstance(length, int):
        return False
    symbols = re.findall(r"\b[su]\d+\b", str(length))
    return any(names.get(symbol, BATCH) == BATCH for symbol in symbols)


def has_positions(node: Node, name: str, example: int) -> bool:
    """Whether a node's value is ``[N, L, ...]`` of a length that varies.

    Args:
        node: of a captured graph.
        name: of the length.
        example: how long it was at capture.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() < 2:
        return False
    batch, length = value.shape[:2]
    if isinstance(length, int):
        return length == example and batch == captured_batch(node.graph)
    names = size_names(node.graph)
    return names.get(str(length)) == name and names.get(str(batch)) == BATCH
