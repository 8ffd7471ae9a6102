"""What an error of a site does to the product that takes its output.

Where a site's output is multiplied with another signal (a softmax's exp with the reciprocal of the
row's sum, a gate with what it lets pass), an error counts by that other signal: to first order the
product is off by error times other. The calibration histogram of such a site is weighted with the
square of the other factor, summed over the elements that one output reaches.

A site whose output reaches such a site through sums alone (a norm's square its inverse root)
counts by what its error does to the same product, through the slope of the site between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from . import fold
from .operations import is_layout
from .regions import Regions, packet
from .sites import Site


@dataclass(frozen=True)
class Taken:
    """A product that takes a site's output.

    Args:
        site: the site's call.
        path: linear operations between the two, in order.
        product: the multiplication.
        other: the factor beside it.
    """

    site: Node
    path: tuple[Node, ...]
    product: Node
    other: Node


@dataclass(frozen=True)
class Summed:
    """A site that takes a site's output through sums.

    Args:
        site: the call of the site before.
        path: linear operations between the two, in order.
        target: the site behind them, whose output goes into products.
    """

    site: Node
    path: tuple[Node, ...]
    target: Site


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


def sums(graph_module: GraphModule, sites: Sequence[Site], taken: Sequence[Taken]) -> list[Summed]:
    """Sites whose whole output goes through sums into a site of `taken`."""
    varying = Regions(graph_module).varying
    known = {site.node: site for site in sites}
    weighted = {each.site for each in taken}
    found = []
    for site in sites:
        value = site.node
        path: list[Node] = []
        while len(value.users) == 1 and site.node not in weighted:
            (user,) = value.users
            if user in weighted:
                found.append(Summed(site.node, tuple(path), known[user]))
                break
            if not _linear(user, value, varying) and not _added(user, value):
                break
            path.append(user)
            value = user
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
            elif packet(user) in ("sum", "mean", "sym_size"):
                continue
            elif _linear(user, value, varying):
                waiting.append((user, (*path, user)))
            else:
                return None
    return found


def _linear(user: Node, value: Node, varying: set[Node]) -> bool:
    """Whether an operation moves, weights by constants or sums one value."""
    name = packet(user)
    if name in ("mul", "linear") and len(user.args) == 2:
        other = [a for a in user.args if a is not value]
        constant = isinstance(other[0], Node) and other[0].op == "get_attr" if other else False
        return constant and (name == "mul" or user.args[0] is value)
    if name in ("sum", "mean") and user.args[0] is value:
        return True
    return is_layout(user) and user.args[0] is value and _alone(user, value)


def _added(user: Node, value: Node) -> bool:
    """Whether something else is added to a value, which keeps its shape."""
    shapes = [str(tuple(node.meta["val"].shape)) for node in (user, value)]
    plain = packet(user) == "add" and len(user.args) == 2 and not user.kwargs
    return plain and shapes[0] == shapes[1]


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
        summed: from `sums`.
        told: called with a site's call, its input and the importance of each of its elements.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        taken: Sequence[Taken],
        summed: Sequence[Summed],
        told: Any,
    ) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module
        self.taken: dict[Node, list[Taken]] = {}
        self.summed: dict[Node, list[Summed]] = {}
        self.left: dict[Node, int] = {}
        for each in taken:
            self.taken.setdefault(each.product, []).append(each)
            self.left[each.site] = self.left.get(each.site, 0) + 1
        for one in summed:
            self.summed.setdefault(one.target.node, []).append(one)
        self.told = told
        self._before = {one.site for one in summed}
        ways = [each.path for each in taken] + [one.path for one in summed]
        self._paths = {node for path in ways for node in path}
        self._recorded: dict[Node, tuple[Any, Any]] = {}
        self._open: dict[Node, list[Any]] = {}
        self._inputs: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        """Computes a node; at a product, what its other factor says of a site."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        result = super().run_node(n)
        if n in self._paths:
            # Sizes only: the value itself is not needed again.
            self._recorded[n] = pytree.tree_map_only(Tensor, lambda _: None, (args, kwargs))
        if n in self._before:
            self._inputs[n] = args[0]
        if n in self.left:
            self._open[n] = [args[0], self.left[n], 0.0]
        for each in self.taken.get(n, ()):
            other = args[n.args.index(each.other)]
            entry = self._open[each.site]
            entry[1] -= 1
            square = other.float().square().expand(result.shape)
            entry[2] = entry[2] + self._back(each.path, square, entry[0])
            if not entry[1]:
                self._tell(each.site, entry[0], entry[2])
                del self._open[each.site]
        return result

    def _tell(self, site: Node, x: Tensor, importance: Tensor) -> None:
        self.told(site, x, importance)
        for one in self.summed.get(site, ()):
            with torch.enable_grad():
                point = x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(one.target.function(point).sum(), point)
            before = self._inputs.pop(one.site)
            square = slope.float().square() * importance
            self.told(one.site, before, self._back(one.path, square, before))

    def _back(self, path: Sequence[Node], square: Tensor, x: Tensor) -> Tensor:
        """Squared slopes behind a path, summed over the elements that one value before it reaches.

        The adjoint of a layout sums over what it copied, that of the squared weights weights.
        """
        if not path:
            return square.sum_to_size(x.shape)
        with torch.enable_grad():
            start = torch.zeros_like(x, dtype=torch.float32, requires_grad=True)
            end = start
            for node in path:
                end = self._squared(node, end)
            (summed,) = torch.autograd.grad(end, start, square.sum_to_size(end.shape))
        return summed

    def _squared(self, node: Node, value: Tensor) -> Tensor:
        """A linear operation with its weights squared."""
        name = packet(node)
        if name == "add":
            return value
        if name in ("mul", "linear"):
            constant = next(a for a in node.args if isinstance(a, Node) and a.op == "get_attr")
            weight = fold.read(self.graph_module, constant).float().square()
            return value * weight if name == "mul" else value @ weight.T
        args, kwargs = self._recorded[node]
        result: Tensor = node.target(value, *args[1:], **kwargs)  # type: ignore[operator]
        return result * (result.numel() / max(value.numel(), 1)) if name == "mean" else result
