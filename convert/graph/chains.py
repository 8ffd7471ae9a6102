"""What lies between sites: the longest chain of them, products that bar a constant, masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .node_facts import read
from .operators import Kind, operator_of
from .regions import is_float
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


def hidden_inputs(graph_module: GraphModule) -> set[str]:
    """Modules to whose input the graph's own masks may bring -inf, whatever calibration saw.

    -inf is a number or a constant of the graph. It stays what it is where values are moved, chosen
    or added, and gets lost in a sum of products and in every module.
    """
    hidden = _with_hidden(graph_module)
    reached = set()
    for node in graph_module.graph.nodes:
        read_hidden = any(i in hidden for i in node.all_input_nodes)
        if node.op == "call_module" and read_hidden:
            reached.add(str(node.target))
        elif node.op == "call_function" and is_float(node):
            row = operator_of(node)
            summed = row is not None and (row.weighted or row.kind is Kind.NORM)
            if not summed and (read_hidden or -float("inf") in _numbers(node)):
                hidden.add(node)
    return reached


def _with_hidden(graph_module: GraphModule) -> set[Node]:
    """The constants that hold -inf; a GPU is waited for once for all of them."""
    found: dict[torch.device, dict[Node, Tensor]] = {}
    for node in graph_module.graph.nodes:
        value = read(graph_module, node) if node.op == "get_attr" else None
        if isinstance(value, Tensor) and value.is_floating_point():
            found.setdefault(value.device, {})[node] = (value == -float("inf")).any()
    return {
        node
        for there in found.values()
        for node, holds in zip(there, torch.stack(list(there.values())).tolist(), strict=True)
        if holds
    }


def _numbers(node: Node) -> list[float]:
    return [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, float)]
