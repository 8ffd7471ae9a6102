"""Which neurons, sums and products may write their output over their input."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from ..neuron.few_spikes import FewSpikesNeuron

aten = torch.ops.aten

# Operations whose result is memory of their own.
_FRESH = frozenset({
    aten.linear, aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution, aten.addmm, aten.mm,
    aten.bmm, aten.baddbmm, aten.matmul, aten.add, aten.sub, aten.mul, aten.div, aten.neg,
    aten.sum, aten.mean, aten.cat, aten.avg_pool2d, aten._adaptive_avg_pool2d,
    aten.max_pool2d, aten.layer_norm, aten.native_layer_norm, aten.native_group_norm,
    aten._native_batch_norm_legit_no_training, aten.amax, aten.amin,
})  # fmt: skip
# Operations whose result may be the memory of their first argument.
_VIEWS = frozenset({
    aten.view, aten._unsafe_view, aten.reshape, aten.flatten, aten.permute, aten.transpose,
    aten.unsqueeze, aten.squeeze,
})  # fmt: skip


# A sum of fewer values takes less time than what it takes to do without.
_WORTH_ONE_PASS = 32768

_IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
}


def overwritable(graph: Graph, paths: Collection[str]) -> set[str]:
    """Paths of the neurons whose input is freshly computed and read by nobody else.

    Args:
        graph: of the spiking network.
        paths: of its neurons.
    """
    return {
        str(node.target)
        for node in graph.nodes
        if node.op == "call_module" and str(node.target) in paths and _own(node.args[0], ())
    }


@dataclass(frozen=True)
class Program:
    """A graph as a function of its module and inputs, and which neurons may work in place."""

    run: Callable[..., Any]
    overwritable: frozenset[str]


def frugal(graph: Graph, paths: Collection[str]) -> Program:
    """The graph as a program whose sums and products reuse memory.

    It computes the same bits, without gradients. Nobody may keep what passes by: with a hook on a
    neuron, run the module itself.

    Args:
        graph: of the spiking network.
        paths: of its neurons.
    """
    copied = Graph()
    values: dict[Node, Node] = {}
    copied.output(copied.graph_copy(graph, values))
    neurons = overwritable(graph, paths)
    place = {node: index for index, node in enumerate(graph.nodes)}
    untouched = set()
    for node, new in values.items():
        in_place = _IN_PLACE.get(node.target)  # type: ignore[call-overload]
        if in_place is None:
            continue
        free = [_reusable(node, operand, neurons, place) for operand in node.args[:2]]
        if node.target is aten.sub.Tensor or node.kwargs:
            free[1] = False
        swaps = free[1] and not (free[0] and _dense(node.args[0]))
        if swaps:
            new.args = (new.args[1], new.args[0])
        if _is_input_of_neuron(node, paths):
            (reader,) = new.users
            with copied.inserting_before(reader):
                neuron = copied.get_attr(str(reader.target))
                fused = copied.call_function(sum_into, (neuron, *new.args, any(free)))
            reader.replace_all_uses_with(fused)
            copied.erase_node(reader)
            copied.erase_node(new)
            untouched |= set() if any(free) else {str(reader.target)}
        elif any(free):
            new.target = in_place
    return Program(_function(copied), frozenset(neurons - untouched))


def sum_into(neuron: Any, x: Tensor, addend: Tensor, free: bool) -> Any:
    """What a module gives for a sum of two, which may take the memory of x if that is `free`."""
    if x.numel() >= _WORTH_ONE_PASS and type(neuron) is FewSpikesNeuron and neuron.step_mode == "s":
        return neuron.decode(x, addend)
    return neuron(x.add_(addend) if free else x + addend)


def _is_input_of_neuron(node: Node, paths: Collection[str]) -> bool:
    """Whether a node adds two values of one shape and type for a neuron alone."""
    if node.target is not aten.add.Tensor or node.kwargs or len(node.users) != 1:
        return False
    (reader,) = node.users
    values = [
        operand.meta.get("val") if isinstance(operand, Node) else None
        for operand in (node, *node.args)
    ]
    return (
        reader.op == "call_module"
        and str(reader.target) in paths
        and all(isinstance(value, Tensor) for value in values)
        and len({(str(value.shape), value.dtype) for value in values}) == 1  # type: ignore[union-attr]
    )


def in_two(graph: Graph, paths: Collection[str]) -> tuple[Callable[..., Any], Program]:
    """What comes before every neuron, and the program of the rest.

    The first gives a tuple, which the second takes after the network's inputs: for inputs that
    are run many times with other neurons.
    """
    late: set[Node] = set()
    for node in graph.nodes:
        neuron = node.op == "call_module" and str(node.target) in paths
        if node.op == "output" or neuron or not late.isdisjoint(node.all_input_nodes):
            late.add(node)
    given = ("placeholder", "get_attr")
    border = [
        node
        for node in graph.nodes
        if node not in late and node.op not in given and not late.isdisjoint(node.users)
    ]
    head, tail = Graph(), Graph()
    early: dict[Node, Node] = {}
    rest: dict[Node, Node] = {}
    for node in graph.nodes:
        if node not in late:
            early[node] = head.node_copy(node, early.__getitem__)
        if node.op == "placeholder":
            rest[node] = tail.node_copy(node, rest.__getitem__)
    head.output(tuple(early[node] for node in border))
    for node in border:
        rest[node] = tail.placeholder(node.name)
        rest[node].meta = dict(node.meta)
    for node in graph.nodes:
        if node in late or (node.op == "get_attr" and not late.isdisjoint(node.users)):
            rest[node] = tail.node_copy(node, rest.__getitem__)
    return _function(head), frugal(tail, paths)


def _function(graph: Graph) -> Callable[..., Any]:
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)  # our own graph, written by torch.fx as GraphModule does it
    return names["forward"]  # type: ignore[no-any-return]


def _dense(node: Any) -> bool:
    return bool(node.meta["val"].is_contiguous())


def _reusable(node: Node, operand: Any, neurons: Collection[str], place: dict[Node, int]) -> bool:
    """Whether the result of a node fits into the memory of an operand that nobody reads later."""
    if not _own(operand, neurons, node, place):
        return False
    result, given = node.meta.get("val"), operand.meta.get("val")
    return (
        isinstance(result, Tensor)
        and isinstance(given, Tensor)
        and result.dtype == given.dtype
        and str(result.shape) == str(given.shape)
    )


def _own(
    node: Any,
    neurons: Collection[str],
    reader: Node | None = None,
    place: Mapping[Node, int] | None = None,
) -> bool:
    """Whether a value lies in memory of its own that nobody reads after `reader`."""
    while isinstance(node, Node) and _read_by_one(node, neurons, reader, place):
        if node.op == "call_module":
            return str(node.target) in neurons
        packet = getattr(node.target, "overloadpacket", None)
        if packet in _FRESH:
            return True
        if packet not in _VIEWS:
            return False
        reader, node = node, node.args[0]
    return False


def _read_by_one(
    node: Node, neurons: Collection[str], reader: Node | None, place: Mapping[Node, int] | None
) -> bool:
    """Whether there is one reader, or the others are done before it and keep nothing."""
    if len(node.users) == 1:
        return True
    if reader is None or place is None:
        return False
    others = [user for user in node.users if user is not reader]
    return all(
        place[user] < place[reader] and getattr(user.target, "overloadpacket", None) in _FRESH
        for user in others
    )
