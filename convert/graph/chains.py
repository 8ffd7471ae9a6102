"""What lies between sites: the longest chain of them, and products that bar a constant."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import GraphModule, Node

from .roles import Role, operations


def latency_steps(graph_module: GraphModule, steps: Mapping[str, int]) -> int:
    """Time steps of the longest chain of sites: K times its length if all have one K.

    Args:
        graph_module: the network.
        steps: K of every site, by the path of its module.
    """
    latest: dict[Node, int] = {}
    for node in graph_module.graph.nodes:
        before = max((latest[i] for i in node.all_input_nodes), default=0)
        own = steps.get(str(node.target), 0) if node.op == "call_module" else 0
        latest[node] = before + own
    return max(latest.values())


def constants_barred(graph_module: GraphModule, sites: set[str]) -> set[str]:
    """Sites behind which a constant can't be folded away, because a product takes their output.

    A constant added to a spike-coded signal passes synaptic operations as a constant, which is a
    bias of the receiving layer; a product would turn it into a signal.

    Args:
        graph_module: a captured graph whose sites are called as modules.
        sites: paths of those modules.
    """
    kinds = {found.node: found.kind for found in operations(graph_module, sites)}
    barred = set()
    # Values that a product takes before a site does.
    reaching: set[Node] = set()
    for node in reversed(graph_module.graph.nodes):
        for user in node.users:
            if user.op == "call_module" and user.target in sites:
                continue
            if user in reaching or kinds.get(user) in (Role.PRODUCT, Role.REMAINING):
                reaching.add(node)
        if node in reaching and node.op == "call_module" and node.target in sites:
            barred.add(str(node.target))
    return barred
