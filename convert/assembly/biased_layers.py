"""Layers with a bias of their own behind a site, and the value that each bias moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..graph.node_facts import read, where
from ..graph.operators import operator_of
from ..graph.regions import packet


@dataclass(frozen=True)
class Layer:
    """A layer whose bias can take out the mean error of a value.

    Args:
        bias: path of its bias, which no other layer reads.
        target: the value: the layer's output, or the sum that it is added to at last.
        axis: where the target's channels lie.
        shape: of the bias.
        sites: names of the sites that the target depends on.
        into: path of the neuron that alone reads the target, if one does.
    """

    bias: str
    target: Node
    axis: int
    shape: tuple[int, ...]
    sites: frozenset[str]
    into: str | None


def find_layers(graph_module: GraphModule, names: Mapping[str, str]) -> list[Layer]:
    """Layers that depend on a site, in graph order; each gets a bias of its own.

    Convolutions, linear layers, and constants that are added channel by channel. A layer without
    a bias gets one of zeros, one that shares its bias a copy; a layer that works at every time step
    of a recurrence is left out, because its one bias can't take out the errors of all of them.

    Args:
        graph_module: a captured graph whose sites are called as modules; changed in place.
        names: name of the site by the path of its module.
    """
    graph = graph_module.graph
    before: dict[Node, frozenset[str]] = {}
    places: dict[Node, tuple[int, int]] = {}
    for node in graph.nodes:
        before[node] = frozenset().union(*(before[n] for n in node.all_input_nodes))
        if node.op == "call_module" and str(node.target) in names:
            before[node] |= {names[str(node.target)]}
        place = _place(graph_module, node)
        if place is not None and before[node]:
            places[node] = place
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for node in shared_over_time(graph_module, names):
        places.pop(node, None)
    # Where two layers feed one sum, the later takes what is left of the other's error too.
    taken: dict[Node, tuple[Node, int]] = {}
    for node, (_, axis) in reversed(places.items()):
        target, axis = _target(node, axis, taken)
        taken[target] = node, axis
    layers = []
    for target, (node, axis) in taken.items():
        path = _own_bias(graph_module, node, *places[node])
        users = list(target.users)
        alone = len(users) == 1 and users[0].op == "call_module" and str(users[0].target) in names
        into = str(users[0].target) if alone and calls[str(users[0].target)] == 1 else None
        shape = tuple(value_at(graph_module, path).shape)
        layers.append(Layer(path, target, axis, shape, before[target], into))
    graph_module.recompile()
    order = {node: i for i, node in enumerate(graph.nodes)}
    return sorted(layers, key=lambda layer: order[layer.target])


def shared_over_time(graph_module: GraphModule, sites: Collection[str]) -> set[Node]:
    """Operations with a tensor of the network that work at several time steps of a recurrence.

    Of several that read one tensor, those before different calls of one site: behind them comes a
    gate, which is a site that is called at every time step.

    Args:
        graph_module: a captured graph whose sites are called as modules.
        sites: paths of those modules.
    """
    graph = graph_module.graph
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    gates = {path for path in sites if calls[path] > 1}
    if not gates:
        return set()
    # The gates that come next behind a value.
    next_gates: dict[Node, frozenset[str]] = {}
    for node in reversed(graph.nodes):
        found: frozenset[str] = frozenset()
        for user in node.users:
            target = str(user.target)
            called = user.op == "call_module" and target in sites
            found |= frozenset([target]) & gates if called else next_gates[user]
        next_gates[node] = found
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for tensor in node.all_input_nodes:
            if tensor.op == "get_attr":
                readers.setdefault(str(tensor.target), []).append(node)
    shared: set[Node] = set()
    for nodes in readers.values():
        before = Counter(gate for node in nodes for gate in next_gates[node])
        shared.update(node for node in nodes if any(before[g] > 1 for g in next_gates[node]))
    return shared


def left_out(graph_module: GraphModule, sites: Collection[str]) -> list[str]:
    """A note on the layers whose bias stays as trained because they work at every time step.

    Args:
        graph_module, sites: as for `shared_over_time`.
    """
    nodes = shared_over_time(graph_module, sites)
    found = dict.fromkeys(where(n) for n in graph_module.graph.nodes if n in nodes and _biased(n))
    if not found:
        return []
    return [
        f"biases inside {', '.join(found)} stay as trained: a layer that works at every time step "
        "has one bias for all of them"
    ]


def _biased(node: Node) -> bool:
    """Whether an operation may have a bias."""
    row = operator_of(node)
    return row is not None and row.bias is not None


def _place(graph_module: GraphModule, node: Node) -> tuple[int, int] | None:
    """Index of a layer's bias among its arguments, and the axis of its channels."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or not value.dim():
        return None
    if not value.is_floating_point():
        return None
    row = operator_of(node)
    if row is None:
        return None
    if row.convolves and row.weight is not None and row.bias is not None:
        weight: Any = node.args[row.weight]
        kernel = read(graph_module, weight) if weight.op == "get_attr" else weight.meta["val"]
        batched = value.dim() == kernel.dim()
        place = (row.bias, 1 if batched else 0)
    elif row.bias is not None and row.channels == -1 and (row.bias or not node.kwargs):
        place = (row.bias, value.dim() - 1)
    elif row.name == "add" and len(node.args) == 2 and not node.kwargs:
        return _constant(graph_module, node, value)
    else:
        return None
    if not isinstance(value.shape[place[1]], int):
        return None  # as many channels as images
    bias = node.args[place[0]] if len(node.args) > place[0] else node.kwargs.get("bias")
    if bias is None:
        return place
    if not isinstance(bias, Node) or bias.op != "get_attr" or "bias" in node.kwargs:
        return None
    return place if tuple(read(graph_module, bias).shape) == (value.shape[place[1]],) else None


def _constant(graph_module: GraphModule, node: Node, value: Tensor) -> tuple[int, int] | None:
    """Where a sum's constant is, and which axis it runs along."""
    for index, argument in enumerate(node.args):
        if not isinstance(argument, Node) or argument.op != "get_attr":
            continue
        shape = tuple(read(graph_module, argument).shape)
        shape = (1,) * (value.dim() - len(shape)) + shape
        long = [axis for axis, length in enumerate(shape) if length != 1]
        if len(long) == 1 and value.shape[long[0]] == shape[long[0]]:
            return index, long[0]
    return None


def _target(node: Node, axis: int, taken: Collection[Node]) -> tuple[Node, int]:
    """The last value that is the layer's output, moved or added to, and nothing else."""
    value = node
    while len(value.users) == 1:
        (user,) = value.users
        moved = _moved(user, value, axis)
        if moved is None or user in taken:
            break
        value, axis = user, moved
    return value, axis


def _moved(user: Node, value: Node, axis: int) -> int | None:
    """The axis of the channels behind an operation that keeps every channel whole."""
    if user.op != "call_function" or not isinstance(user.meta.get("val"), Tensor):
        return None
    row, name, arguments = operator_of(user), packet(user), user.args
    shapes = [tuple(str(n) for n in node.meta["val"].shape) for node in (value, user)]
    if row is not None and row.per_channel:
        return axis
    if name == "add" and len(arguments) == 2 and not user.kwargs:
        pair = [a for a in arguments if isinstance(a, Node) and a.op != "get_attr"]
        same = [tuple(str(n) for n in a.meta["val"].shape) == shapes[1] for a in pair]
        return axis if len(set(pair)) == 2 and all(same) else None
    if arguments[:1] != (value,):
        return None
    rank = len(shapes[0])
    if name == "permute":
        dims: Any = arguments[1]
        return [d % rank for d in dims].index(axis)
    if name == "transpose":
        a, b = (int(d) % rank for d in arguments[1:3])  # type: ignore[arg-type]
        return {a: b, b: a}.get(axis, axis)
    if name in ("view", "reshape", "_unsafe_view", "flatten"):
        old, new = shapes
        if axis == rank - 1 and old[-1] == new[-1]:
            return len(new) - 1
        if axis == 1 and old[:2] == new[:2]:
            return 1
    return None


def _own_bias(graph_module: GraphModule, node: Node, index: int, axis: int) -> str:
    """Path of the bias of a layer, made or copied so that no other layer reads it."""
    graph = graph_module.graph
    bias = node.args[index] if len(node.args) > index else None
    if isinstance(bias, Node):
        same = [n for n in graph.nodes if n.op == "get_attr" and n.target == bias.target]
        if len(same) == 1 and len(bias.users) == 1:
            return str(bias.target)
        value = read(graph_module, bias).detach().clone()
    else:
        weight: Any = node.args[1]
        like = weight.meta["val"] if weight.op != "get_attr" else read(graph_module, weight)
        value = torch.zeros(
            node.meta["val"].shape[axis], dtype=like.dtype, device=_device(graph_module, like)
        )
    name, count = f"bias_{node.name}", 0
    while hasattr(graph_module, name):
        count += 1
        name = f"bias_{node.name}_{count}"
    graph_module.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
    with graph.inserting_before(node):
        made = graph.get_attr(name)
    made.meta["val"] = node.meta["val"].new_empty(value.shape)
    node.args = (*node.args[:index], made, *node.args[index + 1 :])
    return name


def _device(graph_module: GraphModule, like: Tensor) -> torch.device:
    tensors = iter(graph_module.state_dict().values())
    return next((t.device for t in tensors), like.device)


def value_at(graph_module: GraphModule, path: str) -> Tensor:
    """The tensor at a path."""
    owner, _, name = path.rpartition(".")
    found = getattr(graph_module.get_submodule(owner), name)
    assert isinstance(found, Tensor)
    return found
