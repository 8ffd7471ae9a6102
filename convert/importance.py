"""What an error of a site does to the product that takes its output.

Where a site's output is multiplied with another signal (a softmax's exp with the reciprocal of the
row's sum, a gate with what it lets pass), an error counts by that other signal: to first order the
product is off by error times other. The calibration histogram of such a site is weighted with the
square of the other factor, summed over the elements that one output reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from .operations import is_layout
from .regions import Regions, packet
from .sites import Site


@dataclass(frozen=True)
class Taken:
    """A product that takes a site's output.

    Args:
        site: the site's call.
        path: layout operations between the two, in order.
        product: the multiplication.
        other: the factor beside it.
    """

    site: Node
    path: tuple[Node, ...]
    product: Node
    other: Node


def products(graph_module: GraphModule, sites: Sequence[Site]) -> list[Taken]:
    """Products that take a site's output, of sites whose output goes to products and sums only.

    A sum beside the product is a softmax's: its error reaches the same product.
    """
    varying = Regions(graph_module).varying
    found = []
    for site in sites:
        taken = _taken(site.node, varying)
        found += taken or []
    return found


def _taken(site: Node, varying: set[Node]) -> list[Taken] | None:
    found: list[Taken] = []
    waiting: list[tuple[Node, tuple[Node, ...]]] = [(site, ())]
    while waiting:
        value, path = waiting.pop()
        for user in value.users:
            factors = [i for i in user.args[:2] if isinstance(i, Node)]
            if packet(user) == "mul" and len(set(factors)) == 2 and varying.issuperset(factors):
                other = factors[1] if factors[0] is value else factors[0]
                found.append(Taken(site, path, user, other))
            elif is_layout(user) and user.args[0] is value and _alone(user, value):
                waiting.append((user, (*path, user)))
            elif packet(user) not in ("sum", "mean", "sym_size"):
                return None
    return found


def _alone(user: Node, value: Node) -> bool:
    """Whether a layout operation moves this value only, by sizes and constants that are known."""
    return all(
        i is value or not isinstance(i.meta.get("val"), Tensor) for i in user.all_input_nodes
    )


class Observer(Interpreter):
    """Runs a captured graph and reports the importance of every output of the sites in products.

    Args:
        graph_module: the captured graph.
        taken: from `products`.
        told: called with a site's call, its input and the importance of each of its elements.
    """

    def __init__(self, graph_module: GraphModule, taken: Sequence[Taken], told: Any) -> None:
        super().__init__(graph_module)
        self.taken: dict[Node, list[Taken]] = {}
        self.left: dict[Node, int] = {}
        for each in taken:
            self.taken.setdefault(each.product, []).append(each)
            self.left[each.site] = self.left.get(each.site, 0) + 1
        self.told = told
        self._paths = {node for each in taken for node in each.path}
        self._recorded: dict[Node, tuple[Any, Any]] = {}
        self._open: dict[Node, list[Any]] = {}

    def run_node(self, n: Node) -> Any:
        """Computes a node; at a product, what its other factor says of a site."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        result = super().run_node(n)
        if n in self._paths:
            # Sizes only: the value itself is not needed again.
            self._recorded[n] = pytree.tree_map_only(Tensor, lambda _: None, (args, kwargs))
        if n in self.left:
            self._open[n] = [args[0], self.left[n], 0.0]
        for each in self.taken.get(n, ()):
            other = args[n.args.index(each.other)]
            entry = self._open[each.site]
            entry[1] -= 1
            entry[2] = entry[2] + self._squares(each, other, entry[0], result.shape)
            if not entry[1]:
                self.told(each.site, entry[0], entry[2])
                del self._open[each.site]
        return result

    def _squares(self, each: Taken, other: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        """The squared factor, summed over the elements that one output of the site reaches."""
        square = other.float().square().expand(shape)
        if not each.path:
            return square.sum_to_size(x.shape)
        # The adjoint of a layout sums over what it copied.
        with torch.enable_grad():
            start = torch.zeros_like(x, dtype=torch.float32, requires_grad=True)
            end = start
            for node in each.path:
                args, kwargs = self._recorded[node]
                end = node.target(end, *args[1:], **kwargs)  # type: ignore[operator]
            (summed,) = torch.autograd.grad(end, start, square.sum_to_size(end.shape))
        return summed
