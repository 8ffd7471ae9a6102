"""Which value of a graph is the output of which layer of the model."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Graph, Node

# Key of a node's meta: names of the module calls whose output it is.
OUTPUT_OF = "output_of"


def mark(graph: Graph) -> None:
    """Notes at every node whose output of a module call it is, as ``path`` or ``path@call``.

    To be done before regions become sites: a value that a site takes in is an output no more.
    """
    members: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if not node.op.startswith("call"):
            continue
        for key, (path, *_) in (node.meta.get("nn_module_stack") or {}).items():
            path = str(path).removeprefix("L['self'].").removeprefix("L['self']")
            _, at, number = str(key).rpartition("@")
            if path:
                call = f"{path}@{number}" if at and number.isdecimal() else path
                members.setdefault(call, []).append(node)
    for call, nodes in members.items():
        inside = set(nodes)
        leaving = [node for node in nodes if any(user not in inside for user in node.users)]
        tensors = [node for node in leaving if isinstance(node.meta.get("val"), Tensor)]
        if tensors:
            last = tensors[-1]
            last.meta[OUTPUT_OF] = [*last.meta.get(OUTPUT_OF, ()), call]


def outputs(graph: Graph) -> dict[str, Node]:
    """The node of every layer's output that the graph still holds."""
    # What a rewriting made of a value carries its meta: the last of them is the value.
    return {
        call: node
        for node in graph.nodes
        if node.op.startswith("call")
        for call in node.meta.get(OUTPUT_OF, ())
    }
