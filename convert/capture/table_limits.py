"""How long an input may be where forward looks up a row of a table for each position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..calls.call_signature import Signature
from ..calls.size_bounds import SizeBounds
from ..calls.sizes import Size
from ..graph.node_facts import read, where
from ..graph.run import compute

aten = torch.ops.aten

# A table that is long enough for so many positions sets no bound; one of their distances, which are
# as many squared, where it is long enough for fewer.
_MOST, _MOST_SQUARED = 2**17, 2**10
# An index of at most so many times the length grows as the length does.
_LINEAR = 4
# Values pass through these unchanged.
_SAME = (
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.alias.default,
    aten._to_copy.default, aten.clone.default, aten.expand.default, aten.unsqueeze.default,
    aten.slice.Tensor, aten.squeeze.dim, aten.permute.default,
)  # fmt: skip


def with_rows(graph_module: GraphModule, signature: Signature) -> Signature:
    """The signature with the rows of the tables that whole-number inputs are looked up in."""
    inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    rows: dict[Node, int] = {}
    for node, table in _lookups(graph_module):
        source: Any = node.args[1]
        while isinstance(source, Node) and source.target in _SAME:
            source = source.args[0]
        if isinstance(source, Node) and source.op == "placeholder":
            rows[source] = min(rows.get(source, table.shape[0]), table.shape[0])
    described = tuple(
        replace(i, rows=rows[node]) if i is not None and node in rows else i
        for node, i in zip(inputs, signature.inputs, strict=True)
    )
    return replace(signature, inputs=described)


def longest(graph_module: GraphModule, signature: Signature, size: Size) -> SizeBounds:
    """The bounds of a length, with what the tables of the graph allow.

    Args:
        graph_module: a captured graph.
        signature: how it is called.
        size: one of its lengths that vary.
    """
    bounds = size.bounds
    for node, table in _lookups(graph_module):
        index = node.args[1]
        needed = _by_sizes(graph_module, index) if isinstance(index, Node) else None
        if needed is None:
            continue

        def fits(length: int, needed: list[Node] = needed, rows: int = table.shape[0]) -> bool:
            found = _index(graph_module, signature, needed, _at(signature, size, length))
            return found.numel() == 0 or (int(found.max()) < rows and int(found.min()) >= 0)

        double = _index(graph_module, signature, needed, _at(signature, size, 2 * size.example))
        tried = _MOST if double.numel() <= _LINEAR * size.example else _MOST_SQUARED
        most = _largest(fits, size.example, max(min(bounds.most or tried, tried), size.example))
        if most is not None:
            place = f"{where(node)}, a table of {table.shape[0]} rows"
            bounds = replace(bounds, most=most, asked=place)
    return bounds


def _lookups(graph_module: GraphModule) -> Iterator[tuple[Node, Tensor]]:
    """Every lookup in a table of the network's own, with the table."""
    for node in graph_module.graph.nodes:
        if node.target is aten.embedding.default and node.args[0].op == "get_attr":
            yield node, read(graph_module, node.args[0])


def _by_sizes(graph_module: GraphModule, index: Node) -> list[Node] | None:
    """What is computed for an index that depends on lengths alone; None for any other."""
    needed: set[Node] = set()
    stack = [index]
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        if node.op == "placeholder":
            return None
        needed.add(node)
        if node.target is not aten.sym_size.int:
            stack += node.all_input_nodes
    sizes = any(node.target is aten.sym_size.int for node in needed)
    return [node for node in graph_module.graph.nodes if node in needed] if sizes else None


def _at(signature: Signature, size: Size, length: int) -> dict[str, int]:
    """The example's lengths, with another of one size."""
    return {s.name: s.example for s in signature.varying} | {size.name: length}


def _index(
    graph_module: GraphModule, signature: Signature, needed: list[Node], lengths: Mapping[str, int]
) -> Tensor:
    """The index at some lengths, of one image."""
    places = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    shapes = dict(zip(places, signature.shapes, strict=True))
    known: dict[Node, Any] = {}
    for node in needed:
        if node.target is aten.sym_size.int:
            shape = shapes.get(node.args[0])
            n = None if shape is None else shape[node.args[1]]
            known[node] = lengths[n] if isinstance(n, str) else 1 if n is None else n
        else:
            known[node] = compute(graph_module, node, known)
    found = known[needed[-1]]
    assert isinstance(found, Tensor)
    return found


def _largest(fits: Callable[[int], bool], known: int, most: int) -> int | None:
    """The largest length that fits, from one that does; None if `most` does too."""
    if fits(most):
        return None
    low, high = known, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
