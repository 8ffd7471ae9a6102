"""The one interpreter: runs a graph node by node, with values that are seen or replaced on the way.

Everything that needs the values inside a network goes through `walk`, or through `compute` where
several runs go side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from ..common.progress import Progress
from .call_signature import Signature
from .node_facts import read

Seen = Callable[[Tensor], None]
Modules = Mapping[str, Callable[..., Any]]
Tensors = Mapping[str, Tensor]


def module_at(root: torch.nn.Module, path: str) -> torch.nn.Module:
    """The module at a path; ten times as fast as `get_submodule`, which every call would feel."""
    found: torch.nn.Module | None = root
    for part in path.split(".") if path else ():
        assert found is not None
        found = found._modules[part]
    assert found is not None
    return found


def compute(
    graph_module: GraphModule,
    node: Node,
    known: Mapping[Node, Any],
    modules: Modules | None = None,
    tensors: Tensors | None = None,
) -> Any:
    """The value of a node that is neither an input nor the output.

    Args:
        graph_module: where the node's tensors and modules are.
        node: what is computed.
        known: values of the nodes that it reads.
        modules: what is called in place of a module, by its path.
        tensors: what is read in place of a tensor, by its path.
    """
    target = str(node.target)
    if node.op == "get_attr":
        replaced = None if tensors is None else tensors.get(target)
        return read(graph_module, node) if replaced is None else replaced
    given: Any = (node.args, node.kwargs)
    args, kwargs = map_arg(given, known.__getitem__)
    if node.op == "call_module":
        called = None if modules is None else modules.get(target)
        return (called or graph_module.get_submodule(target))(*args, **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def walk(
    graph_module: GraphModule,
    inputs: Sequence[Any],
    *,
    modules: Modules | None = None,
    tensors: Tensors | None = None,
    before: Callable[[Node], None] | None = None,
    after: Callable[[Node, Any, Mapping[Node, Any]], Any] | None = None,
) -> Any:
    """What the graph returns; a value is dropped after its last reader.

    Args:
        graph_module: the graph, with its tensors and modules.
        inputs: one value a placeholder.
        modules, tensors: as for `compute`.
        before: told every node before it is computed.
        after: given every computed node, its value and those before; returns the value that goes
            on.
    """
    values: dict[Node, Any] = {}
    remaining = iter(inputs)
    last = last_read(graph_module.graph)
    for node in graph_module.graph.nodes:
        if before is not None:
            before(node)
        if node.op == "output":
            result: Any = node.args[0]
            return map_arg(result, values.__getitem__)
        if node.op == "placeholder":
            values[node] = next(remaining)
        else:
            values[node] = compute(graph_module, node, values, modules, tensors)
        if after is not None:
            values[node] = after(node, values[node], values)
        for dead in last.get(node, ()):
            del values[dead]
    raise AssertionError("a graph ends with its output")


def last_read(graph: Graph) -> dict[Node, list[Node]]:
    """Values that no node reads any more, by the node after which that is so."""
    last: dict[Node, Node] = {}
    for node in graph.nodes:
        last[node] = node
        last |= dict.fromkeys(node.all_input_nodes, node)
    found: dict[Node, list[Node]] = {}
    for value, node in last.items():
        if node.op != "output" and value.op != "output":
            found.setdefault(node, []).append(value)
    return found


def watch(
    graph_module: GraphModule,
    signature: Signature,
    seen: Mapping[Node, Sequence[Seen]],
    batches: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> int:
    """One pass over the batches; the number of images.

    Args:
        graph_module: a captured network.
        signature: how it is called.
        seen: what is called with the values of which nodes.
        batches: as for `calibrate`.
        device: where the network lives.
        progress: shows a bar on stderr.
    """

    def show(node: Node, value: Any, _: Mapping[Node, Any]) -> Any:
        for told in seen.get(node, ()):
            told(value)
        return value

    images = 0
    with torch.no_grad():
        for batch in Progress(batches, "scales", shown=progress):
            args, kwargs = signature.split(batch, device)
            leaves = signature.flatten(args, kwargs)
            if size := signature.images(leaves):
                walk(graph_module, leaves, after=show)
                images += size
    return images
