"""Sites whose inputs grow with a length that varies: the sums of a softmax over a longer text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from ..calls.sizes import Size
from ..graph.node_facts import has_batch, size_names
from ..graph.operators import operator_of
from ..graph.regions import packet
from ..sites.find import Site

# A length is expected to grow to this many times the longest that calibration saw, at most.
_MOST = 4.0


def reaches(
    graph_module: GraphModule, sizes: Sequence[Size], sites: Sequence[Site]
) -> Mapping[str, float]:
    """How many times the largest calibrated value a longer input may bring, by the site's name.

    Sites are left out whose inputs don't grow.

    Args:
        graph_module: whose sites are called as modules.
        sizes: the lengths that vary, with the longest that calibration saw.
        sites: of the graph.
    """
    if not sizes:
        return {}
    names = size_names(graph_module.graph)
    found: dict[str, float] = {}
    for site in sites:
        summed = _sum_before(site.node.args[0])
        if summed is None:
            continue
        grown = [_times(size) for size in sizes if _over(summed, size, names)]
        if grown and max(grown) > 1:
            found[site.name] = max(grown)
    return found


def _times(size: Size) -> float:
    longest = max(size.longest, size.example)
    most = size.bounds.most
    return _MOST if most is None else min(max(most / longest, 1.0), _MOST)


def _sum_before(value: Any) -> Node | None:
    """The sum that a value is, but for its layout."""
    while isinstance(value, Node) and value.op == "call_function":
        if packet(value) == "sum":
            return value
        row = operator_of(value)
        if row is None or not (row.layout or row.name in ("_to_copy", "clone", "alias")):
            return None
        value = value.args[0]
    return None


def _over(summed: Node, size: Size, names: Mapping[str, str]) -> bool:
    """Whether a sum is over an axis that a length decides."""
    source: Any = summed.args[0]
    value = source.meta.get("val")
    if not isinstance(value, Tensor) or len(summed.args) < 2:
        return False
    dims: Any = summed.args[1]
    axes = [dims] if isinstance(dims, int) else list(dims or range(value.dim()))
    for axis in axes:
        length = value.shape[axis]
        if isinstance(length, int):
            # A loaded graph has numbers for symbols.
            if length == size.example:
                return True
        elif not has_batch(length, names) and size.name in _named(str(length), names):
            return True
    return False


def _named(expression: str, names: Mapping[str, str]) -> set[str]:
    return {name for symbol, name in names.items() if symbol in expression}
