"""Max pooling before the monotone activation that precedes it: fewer neurons, the same values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ..graph import fold
from ..graph.edit import Emitter
from ..graph.origins import OUTPUT_OF
from ..graph.region_function import extract
from ..graph.regions import Regions, is_float
from .maxima import Maximum

# Points at which a function has to rise for its maximum to be that of its largest input.
_POINTS, _REACH = 20_001, 12.0


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
