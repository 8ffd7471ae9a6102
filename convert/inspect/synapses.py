"""What each operation of a network is for spikes: a way that they take, weights, or neither.

A *train* is the spikes of one step (and interval) of a site, as a tensor of zeros and ones, or what
routes made of it. A **route** brings events to other places and adds no weights: layouts, sums,
skip connections, poolings. **Weights** make sums of them, which d then multiplies. Anything else
takes decoded values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from ..graph.node_facts import read, where
from ..graph.operators import Kind, operator_of
from ..graph.regions import packet
from ..graph.roles import Operation, Role, Shapes, operations
from ..graph.run import walk

# Sums with equal factors: an event arrives once at every place that its value is a part of.
POOLS = set(
    "mean sum cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d _adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d _upsample_nearest_exact2d trace im2col col2im".split()
)
SUMS = ("add", "sub", "rsub", "neg")


class Passage(StrEnum):
    """What an operation does with trains; equal to its plain word."""

    SITE = "site"  # a neuron: it ends trains and sends new ones
    ROUTE = "route"  # events come out at other places, unweighted
    WEIGHTS = "weights"  # sums of weights
    DECODED = "decoded"  # it needs the values themselves: products, norms, maxima


@dataclass(frozen=True)
class Connection:
    """One operation of the graph on signals.

    Args:
        node: where it is.
        name: of the site, or where it is called in the model. Later calls of a site, at later time
            steps of a recurrent layer, have ``@`` and their number behind it.
        op: its name.
        passage: what it does with trains.
        signals: the varying values that it reads, each once.
        multiply_accumulates: those of one image in the original network.
        product: whether it multiplies two signals.
        linear: whether it is synaptic: linear in the signals together.
        site: name of the site; empty for what is none.
    """

    node: Node
    name: str
    op: str
    passage: Passage
    signals: tuple[Node, ...]
    multiply_accumulates: int
    product: bool
    linear: bool
    site: str = ""


def connections(
    network: GraphModule, sites: Mapping[str, str], single: Shapes | None = None
) -> dict[Node, Connection]:
    """Every operation on a signal, in graph order; the inputs are signals, and no operations.

    Args:
        network: a graph whose sites are called as modules.
        sites: name of each site by the path of its module.
        single: as for `operations`.
    """
    signals = {n for n in network.graph.nodes if n.op == "placeholder" and _floats(n)}
    by_node = {o.node: o for o in operations(network, set(sites), single)}
    found: dict[Node, Connection] = {}
    calls: Counter[str] = Counter()
    for node in network.graph.nodes:
        operation = by_node.get(node)
        taken = tuple(dict.fromkeys(n for n in node.all_input_nodes if n in signals))
        if operation is None and (packet(node) != "getitem" or not taken):
            continue
        if operation is not None and operation.kind is Role.GIVEN:
            continue
        signals.add(node)
        if operation is None:
            row = Connection(node, where(node), "getitem", Passage.ROUTE, taken, 0, False, True)
        else:
            site = sites.get(str(node.target), "")
            later = f"@{calls[site]}" if calls[site] else ""
            calls.update([site] if site else [])
            row = Connection(
                node,
                f"{site}{later}" or operation.where,
                operation.op,
                _passage(operation, network, signals),
                taken,
                operation.multiply_accumulates,
                operation.kind is Role.PRODUCT,
                operation.kind is Role.SYNAPTIC,
                site,
            )
        found[node] = row
    return found


def shapes_of(network: GraphModule, leaves: Sequence[Any]) -> Shapes:
    """The shapes of a graph's values for flat inputs; `connections` takes those of one image."""
    found: dict[Node, tuple[int, ...]] = {}

    def note(node: Node, value: Any, _: Mapping[Node, Any]) -> Any:
        found[node] = tuple(value.shape) if isinstance(value, Tensor) else ()
        return value

    walk(network, leaves, after=note)
    return found.__getitem__


def _floats(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _passage(operation: Operation, network: GraphModule, signals: set[Node]) -> Passage:
    if operation.kind is Role.SPIKING:
        return Passage.SITE
    node, row = operation.node, operator_of(operation.node)
    name = packet(node)
    if operation.kind is not Role.SYNAPTIC or row is None:
        return Passage.DECODED
    if name in ("mul", "div"):
        return Passage.ROUTE if _by_one_number(node, network, signals) else Passage.WEIGHTS
    if row.weighted or row.kind is Kind.AFFINE:
        return Passage.WEIGHTS
    routes = row.layout or name in (*SUMS, "where", "masked_fill") or name in POOLS
    # A resizing with several factors needs the values.
    return Passage.ROUTE if routes else Passage.DECODED


def _by_one_number(node: Node, network: GraphModule, signals: set[Node]) -> bool:
    """Whether a signal is multiplied by a number, the same one for all its values."""
    others = [a for a in node.args if isinstance(a, Node) and a not in signals]
    values = [read(network, a) if a.op == "get_attr" else a.meta.get("val") for a in others]
    return all(not isinstance(value, Tensor) or value.numel() == 1 for value in values)
