"""The synapses of every neuron: how often its event comes to each operation behind it.

The ways from a site to weights, and to other sites, are linear in its events. So the number of
events that come to an operation is one sum over neurons: events times the neuron's own number of
synapses there. That number is the derivative of the operation's sum, with weights that aren't 0
replaced by 1, and serves every image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from ..graph.run import compute, last_read
from .linear_parts import LinearParts
from .synapses import Connection, Passage
from .trains import plus, zeros_like


@dataclass
class Target:
    """An operation to which events come, or that counts without any.

    Args:
        connection: the operation.
        weights: whether it is weights on spikes alone.
        inputs: ``spikes``, ``analog`` or ``sums``; empty for a site.
        fan_out: by site, how often an event of each neuron comes here ``[...]``, float64.
        outputs: values that it makes.
        sites: those whose trains come here.
    """

    connection: Connection
    weights: bool
    inputs: str
    fan_out: dict[str, Tensor]
    outputs: float
    sites: tuple[str, ...] = ()


@dataclass
class _Ways:
    """How far events of sites have come at a value of the graph.

    Args:
        events: of all sites, float64; None where there are no trains.
        leaves: of each site whose events are among them, what they are a function of.
        sums: whether weighted sums, or values that are no spikes, are among it.
        analog: whether it depends on what is no spike otherwise than through sites.
    """

    events: Any = None
    leaves: dict[str, Tensor] = field(default_factory=dict)
    sums: bool = False
    analog: bool = False


def targets(
    network: GraphModule, connections: Mapping[Node, Connection], leaves: Sequence[Any]
) -> list[Target]:
    """Every operation that costs something, in graph order.

    Args:
        network: a graph that calls its neurons as modules.
        connections: of the network.
        leaves: its flat inputs for the images that the numbers are for.
    """
    found = []
    values: dict[Node, Any] = {}
    ways: dict[Node, _Ways] = {}
    given = iter(leaves)
    last = last_read(network.graph)
    for node in network.graph.nodes:
        if node.op == "output":
            break
        connection = connections.get(node)
        with torch.no_grad():
            if node.op == "placeholder":
                values[node] = next(given)
            else:
                values[node] = compute(network, node, values)
        if node.op == "placeholder":
            ways[node] = _Ways(sums=True, analog=True)
        elif connection is not None:
            with torch.enable_grad():
                target, ways[node] = _step(connection, values, ways)
            found += [] if target is None else [target]
        for dead in last.get(node, ()):
            values.pop(dead, None)
            ways.pop(dead, None)
    return found


def _step(
    connection: Connection,
    values: Mapping[Node, Any],
    ways: Mapping[Node, _Ways],
) -> tuple[Target | None, _Ways]:
    """What an operation is to the events that come to it, and how far they are behind it."""
    node, passage = connection.node, connection.passage
    read = {n: ways[n] for n in connection.signals}
    leaves = {site: leaf for way in read.values() for site, leaf in way.leaves.items()}
    sums = any(way.sums for way in read.values())
    analog = any(way.analog for way in read.values()) or not read
    if passage is Passage.ROUTE and read:
        events = None
        parts = _parts(connection, values)
        for signal, way in read.items():
            if way.events is not None:
                events = plus(events, parts.arrivals(signal, way.events))
        return None, _Ways(events, leaves, sums, analog)
    outputs = _size(values[node])
    if passage is Passage.SITE:
        target = Target(connection, False, "", _fan_out(_total(read), leaves), outputs)
        leaf = torch.zeros_like(values[node], dtype=torch.float64).requires_grad_()
        return target, _Ways(leaf, {connection.name: leaf})
    if passage is Passage.WEIGHTS and leaves and not sums:
        (signal,) = connection.signals
        made = _parts(connection, values).arrivals(signal, read[signal].events)
        fan_out = _fan_out(_sum(made), leaves)
        target = Target(connection, True, "spikes", fan_out, outputs, tuple(leaves))
        return target, _Ways(sums=True)
    inputs = "analog" if analog else "sums"
    target = Target(connection, False, inputs, _fan_out(_total(read), leaves), outputs)
    return target, _Ways(sums=True, analog=analog or not connection.linear)


def _parts(connection: Connection, values: Mapping[Node, Any]) -> LinearParts:
    zeros = {n: zeros_like(values[n]) for n in connection.signals}
    return LinearParts(connection, {n: values[n] for n in connection.node.all_input_nodes}, zeros)


def _total(read: Mapping[Node, _Ways]) -> Tensor | None:
    """All events that come to an operation."""
    sums = [_sum(way.events) for way in read.values() if way.events is not None]
    return None if not sums else torch.stack(sums).sum()


def _sum(value: Any) -> Tensor:
    parts = [leaf.sum() for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return torch.stack(parts).sum()


def _fan_out(total: Tensor | None, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if total is None or not leaves:
        return {}
    sources = list(leaves.values())
    gradients = torch.autograd.grad(total, sources, retain_graph=True, allow_unused=True)
    return {
        site: gradient.round()
        for site, gradient in zip(leaves, gradients, strict=True)
        if gradient is not None
    }


def _size(value: Any) -> float:
    leaves = pytree.tree_leaves(value)
    return float(sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)))
