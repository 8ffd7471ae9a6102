"""Regions: heads are what their definition says, and long chains are walked once."""

import random
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from convert.graph.chains import constants_barred
from convert.graph.regions import Regions
from convert.graph.roles import operations
from convert.sites.find import find_sites

aten = torch.ops.aten


def _graph(build: Callable[[Graph, Node], Node]) -> GraphModule:
    """A graph of one input ``[4, 6]``, a linear layer, and what `build` adds."""
    graph = Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(4, 6)
    weight = graph.get_attr("weight")
    weight.meta["val"] = torch.eye(6)
    graph.output((build(graph, _call(graph, aten.linear.default, x, weight)),))
    module = nn.Module()
    module.register_buffer("weight", torch.eye(6))
    return GraphModule(module, graph)


def _call(graph: Graph, target: Callable[..., Tensor], *args: Node | float) -> Node:
    node = graph.call_function(target, args)
    node.meta["val"] = torch.zeros(4, 6)
    return node


def _chain(regions: Regions, node: Node) -> list[Node]:
    """Affine ancestors through which a node is reached, nearest first: as it is defined."""
    if node is regions.root[node]:
        return [node]
    parents = [_chain(regions, parent) for parent in regions.inputs(node)]
    return [node, *(n for n in parents[0] if all(n in chain for chain in parents))]


def _head(regions: Regions, value: Node) -> Node:
    """The head, from chains that are written out."""
    frontier, waiting = [], list(regions.inputs(value))
    while waiting:
        node = waiting.pop()
        if regions.form[node].atoms:
            waiting += regions.inputs(node)
        else:
            frontier.append(node)
    chains = [_chain(regions, node) for node in frontier]
    return next(node for node in chains[0] if all(node in chain for chain in chains))


@pytest.mark.parametrize("seed", range(60))
def test_heads_are_where_all_paths_meet(seed: int) -> None:
    draw = random.Random(seed)

    def build(graph: Graph, x: Node) -> Node:
        values = [x]
        for _ in range(9):
            a, b = draw.choice(values[-3:]), draw.choice(values)
            kind = draw.choice(("affine", "affine", "sum", "sum", "tanh", "product"))
            values.append(
                _call(graph, aten.mul.Tensor, a, 0.5)
                if kind == "affine"
                else _call(graph, aten.tanh.default, a)
                if kind == "tanh"
                else _call(graph, aten.add.Tensor if kind == "sum" else aten.mul.Tensor, a, b)
            )
        return values[-1]

    regions = Regions(_graph(build))
    values = [node for node, form in regions.form.items() if form.atoms]
    for value in values:
        assert regions.head(value) is _head(regions, value)


_LINES: dict[str, Callable[[Graph, Node, int], Node]] = {
    "x + 0.1 x": lambda g, x, _: _call(g, aten.add.Tensor, x, _call(g, aten.mul.Tensor, x, 0.1)),
    "x * 0.5 + x": lambda g, x, _: _call(g, aten.add.Tensor, _call(g, aten.mul.Tensor, x, 0.5), x),
    "activations": lambda g, x, i: _call(g, (aten.relu.default, aten.tanh.default)[i % 2], x),
    "skips": lambda g, x, _: _call(
        g, aten.add.Tensor, x, _call(g, aten.mul.Tensor, _call(g, aten.relu.default, x), 0.1)
    ),
}


def _long(line: str, length: int) -> GraphModule:
    def build(graph: Graph, x: Node) -> Node:
        for i in range(length):
            x = _LINES[line](graph, x, i)
        return _call(graph, aten.relu.default, x)

    return _graph(build)


@pytest.mark.parametrize("line", _LINES)
def test_long_chains_are_walked_once(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    visits = 0
    inputs = Regions.inputs

    def counted(self: Regions, node: Node) -> list[Node]:
        nonlocal visits
        visits += 1
        assert visits < 100_000, "ancestors are walked again and again"
        return list(inputs(self, node))

    monkeypatch.setattr(Regions, "inputs", counted)
    limit, found = sys.getrecursionlimit(), []
    for length in (100, 400):
        visits = 0
        module = _long(line, length)
        started = time.process_time()
        sites = find_sites(module)
        assert time.process_time() - started < 10
        assert len(sites) == 1 and sys.getrecursionlimit() == limit
        found.append(visits)
        assert visits <= 10 * len(module.graph.nodes) + 20 * length
    assert found[1] <= 4.5 * found[0]


def test_barred_constants_reach_a_product_before_a_site() -> None:
    def build(graph: Graph, x: Node) -> Node:
        a = _call(graph, aten.relu.default, x)
        w = graph.get_attr("weight")
        w.meta["val"] = torch.eye(6)
        b = _call(graph, aten.relu.default, _call(graph, aten.linear.default, a, w))
        return _call(graph, aten.mul.Tensor, _call(graph, aten.linear.default, b, w), x)

    module = _graph(build)
    first, second = find_sites(module)
    paths = {first.module, second.module}
    assert constants_barred(module, paths) == {second.module}
    kinds = [o.kind for o in operations(module, paths)]
    assert kinds == ["synaptic", "spiking", "synaptic", "spiking", "synaptic", "product"]
