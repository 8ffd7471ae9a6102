"""A graph as a program that reuses memory: sums, products and neurons write over dead values.

Three questions decide, each answered where it can be answered:

- Whose memory may a value lie in? The operators' schemas and the table of operators say what is
  memory of its own; whatever may be a view counts as lying in all of its operands' memory.
- Who reads that memory later? Positions are those of the program as it runs, after sums have moved
  to the neurons that take them.
- Would writing in place give the same tensor? Types, shapes and strides are compared when they are
  there, at every call: `.half()` and autocast change them.

Whatever is in doubt computes as the graph says.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from ..graph.operators import is_fresh
from .module_tree import TensorReader
from .quick_calls import call_quickly
from .run_plan import Calls, SiteCall, Tensors

aten = torch.ops.aten

# Fewer values take less time than what it takes to do without them.
_WORTH_ONE_PASS = 32768


@dataclass(frozen=True)
class Program:
    """A graph as a function of its module, the calls of its sites, its tensors, and its inputs.

    Args:
        function: ``function(module, calls, tensors, *inputs)``; `calls` holds one `SiteCall` for
            each site of its `Places`, and `tensors` those at `paths`.
        overwriting: how many operations may write over an operand.
        paths: of the tensors that it reads.
        replaceable: the numbers of those among them that a run may replace, by their path.
    """

    function: Callable[..., Any]
    overwriting: int
    paths: tuple[str, ...]
    replaceable: Mapping[str, int]

    def __call__(
        self,
        reader: TensorReader,
        calls: Calls,
        tensors: Tensors | None,
        *inputs: Any,
    ) -> Any:
        """What the graph returns; without gradients, and no hook may listen.

        Args:
            reader: of the network's tensors at `paths`.
            calls: one for each site.
            tensors: what is read in place of a tensor, by its path; None for nothing.
            inputs: of the graph.
        """
        read = reader.read()
        for path, tensor in (tensors or {}).items():
            if path in self.replaceable:
                read[self.replaceable[path]] = tensor
        return self.function(reader.network, calls, read, *inputs)


@dataclass(frozen=True)
class Places:
    """What a run brings along for a graph.

    Args:
        sites: paths of the modules that are called by `SiteCall`, in the order of the calls.
        aliasing: those of them whose result may lie in the memory of their argument.
        replaceable: paths of tensors that a run may replace.
    """

    sites: tuple[str, ...]
    aliasing: frozenset[str] = frozenset()
    replaceable: frozenset[str] = frozenset()


def frugal(graph: Graph, places: Places) -> Program:
    """The graph as a program that computes the same bits in less memory."""
    copied = Graph()
    made: dict[Node, Node] = {}
    copied.output(copied.graph_copy(graph, made))
    paths = _call_sites(copied, places)
    _sums_into_neurons(copied)
    aliasing = {index for index, path in enumerate(places.sites) if path in places.aliasing}
    overwriting = _overwrite(copied, aliasing)
    call_quickly(copied)
    replaceable = {path: i for i, path in enumerate(paths) if path in places.replaceable}
    return Program(_function(copied), overwriting, paths, replaceable)


def in_two(graph: Graph, places: Places) -> tuple[Callable[..., tuple[Any, ...]], Program]:
    """What comes before every neuron, and the program of the rest.

    The first, a function of the module and the inputs, gives a tuple, which the second takes after
    the network's inputs: for inputs that are run many times with other neurons.
    """
    late: set[Node] = set()
    for node in graph.nodes:
        neuron = node.op == "call_module" and str(node.target) in places.sites
        moved = node.op == "get_attr" and str(node.target) in places.replaceable
        if node.op == "output" or neuron or moved or not late.isdisjoint(node.all_input_nodes):
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
    return _function(head), frugal(tail, places)


def _call_sites(graph: Graph, places: Places) -> tuple[str, ...]:
    """Sites and tensors are taken from what the run brings along; the tensors' paths."""
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        calls, tensors = graph.placeholder("site_calls"), graph.placeholder("run_tensors")
    place = {path: index for index, path in enumerate(places.sites)}
    paths: dict[str, int] = {}
    for node in list(graph.nodes):
        with graph.inserting_after(node):
            if node.op == "call_module" and str(node.target) in place:
                index = place[str(node.target)]
                new = graph.call_function(run_site, (calls, index, node.args[0], False))
            elif node.op == "get_attr":
                number = paths.setdefault(str(node.target), len(paths))
                new = graph.call_function(operator.getitem, (tensors, number))
            else:
                continue
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    return tuple(paths)


def _sums_into_neurons(graph: Graph) -> None:
    """A sum of two values of one shape that a neuron alone reads is made by the neuron."""
    for node in list(graph.nodes):
        if node.target is not run_site:
            continue
        calls, index, total, _ = node.args
        if not isinstance(total, Node) or not _is_plain_sum(total):
            continue
        a, b = total.args
        node.target, node.args = run_site_sum, (calls, index, a, b, False, False)
        graph.erase_node(total)


def _is_plain_sum(node: Node) -> bool:
    if node.target is not aten.add.Tensor or node.kwargs or len(node.users) != 1:
        return False
    values = [n.meta.get("val") if isinstance(n, Node) else None for n in (node, *node.args)]
    return len({_kind(value) for value in values}) == 1 and isinstance(values[0], Tensor)


def _kind(value: Any) -> tuple[str, str]:
    """Type and shape of a value in the graph; two values that are alike in both add one to one."""
    if not isinstance(value, Tensor):
        return "", ""
    return str(value.dtype), str(tuple(value.shape))


def _overwrite(graph: Graph, aliasing: Collection[int]) -> int:
    """Lets operations write over operands that nobody reads later; returns how many may.

    Args:
        graph: as it runs.
        aliasing: numbers of the sites whose result may lie in their argument's memory.
    """
    nodes = list(graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    last = {node: max((place[user] for user in node.users), default=-1) for node in nodes}
    # Where each value may lie: the nodes that made memory, None for memory that isn't ours.
    memory: dict[Node, frozenset[Node | None]] = {}
    # Values by what they may lie in.
    lying: dict[Node | None, list[Node]] = {}
    count = 0

    def free(operand: Any, node: Node) -> bool:
        """Whether nobody reads an operand's memory after a node."""
        if not isinstance(operand, Node) or None in memory[operand]:
            return False
        return not any(
            last[value] > place[node] or (value is not operand and value in node.all_input_nodes)
            for maker in memory[operand]
            for value in lying[maker]
        )

    for node in nodes:
        if node.op == "output":
            break
        writes = _written(node, free)
        count += writes is not None
        places = _memory(node, memory, aliasing)
        memory[node] = places if writes is None else places | memory[writes]
        for maker in memory[node]:
            lying.setdefault(maker, []).append(node)
    return count


def _written(node: Node, free: Callable[[Any, Node], bool]) -> Node | None:
    """Makes a node write over an operand where that may be; returns the operand."""
    if node.target is run_site:
        calls, index, x, _ = node.args
        if free(x, node):
            node.args = (calls, index, x, True)
            return x  # type: ignore[return-value]
    elif node.target is run_site_sum:
        calls, index, x, addend, *_ = node.args
        for first, second, swapped in ((x, addend, False), (addend, x, True)):
            if free(first, node):
                node.args = (calls, index, first, second, True, swapped)
                return first  # type: ignore[return-value]
    elif node.target in _INTO and not node.kwargs and len(node.args) == 2:
        first, second = node.args
        into, commutes = _INTO[node.target]
        if free(first, node):
            node.target, node.args = into, (first, second, False)
            return first  # type: ignore[return-value]
        if commutes and free(second, node):
            node.target, node.args = into, (second, first, True)
            return second  # type: ignore[return-value]
    return None


def _memory(
    node: Node, memory: Mapping[Node, frozenset[Node | None]], aliasing: Collection[int]
) -> frozenset[Node | None]:
    """What a value may lie in, if the node writes over nothing."""
    if node.op in ("placeholder", "get_attr"):
        return frozenset([None])
    own: frozenset[Node | None] = frozenset([node])
    site = node.target in (run_site, run_site_sum)
    if is_fresh(node) or (site and node.args[1] not in aliasing):
        return own
    read = node.args[2:] if site else node.all_input_nodes
    # A view, a function that returns its argument, or what nobody knows.
    return own.union(*(memory[value] for value in read if isinstance(value, Node)))


def _function(graph: Graph) -> Callable[..., Any]:
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)  # our own graph, written by torch.fx as GraphModule does it
    return names["forward"]


# What a program calls.


def run_site(calls: Calls, index: int, x: Tensor, in_place: bool) -> Tensor:
    """What the run calls for a site."""
    return calls[index].fast(x, in_place)


def run_site_sum(
    calls: Calls, index: int, x: Tensor, addend: Tensor, in_place: bool, swapped: bool
) -> Tensor:
    """What the run calls for a site whose input is a sum of two; the memory of x may be taken."""
    call: SiteCall = calls[index]
    if x.numel() >= _WORTH_ONE_PASS and _usual(x) and _alike(x, addend):
        found = call.fast_sum(x, addend, in_place)
        if found is not None:
            return found
    total = add_into(x, addend, swapped) if in_place else x + addend
    # Its own memory, or memory that may be taken.
    return call.fast(total, True)


def add_into(target: Tensor, other: Any, swapped: bool) -> Any:
    """``target + other``, in the memory of target where that is the same tensor."""
    if _same_result(target, other, swapped):
        return target.add_(other)
    return other + target if swapped else target + other


def sub_into(target: Tensor, other: Any, swapped: bool) -> Any:
    """``target - other``, in the memory of target where that is the same tensor."""
    return target.sub_(other) if _same_result(target, other, swapped) else target - other


def mul_into(target: Tensor, other: Any, swapped: bool) -> Any:
    """``target * other``, in the memory of target where that is the same tensor."""
    if _same_result(target, other, swapped):
        return target.mul_(other)
    return other * target if swapped else target * other


# By operation: what may take its place, and whether its operands may change places.
_INTO: dict[Any, tuple[Callable[..., Any], bool]] = {
    aten.add.Tensor: (add_into, True),
    aten.sub.Tensor: (sub_into, False),
    aten.mul.Tensor: (mul_into, True),
}
_PLAIN = (Tensor, torch.nn.Parameter)


def _alike(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors agree in type, shape and the order of their values in memory."""
    return x.dtype == y.dtype and x.shape == y.shape and x.stride() == y.stride()


def _same_result(target: Tensor, other: Any, swapped: bool) -> bool:
    """Whether writing the result into target gives what a new tensor would be, and saves memory."""
    if type(target) not in _PLAIN or target.numel() < _WORTH_ONE_PASS or not _usual(target):
        return False
    if not isinstance(other, Tensor):
        return torch.result_type(target, other) == target.dtype
    if type(other) not in _PLAIN or other.device != target.device:
        return False
    if other.shape == target.shape:
        return _alike(target, other)
    # Spread over target: a new tensor would lie as its first operand does.
    spread = other.dim() <= target.dim() and all(
        n in (1, length)
        for n, length in zip(reversed(other.shape), reversed(target.shape), strict=False)
    )
    # With axes of length 1 the order of memory would be anybody's guess.
    plain = spread and not swapped and 1 not in target.shape
    return plain and torch.result_type(target, other) == target.dtype


def _usual(x: Tensor) -> bool:
    """Whether x lies in memory as a new result would: dense, in the usual order of axes or NHWC.

    The strides of axes of length 1 count too, since convolutions choose their layout by them.
    """
    if x.is_contiguous():
        order = range(x.dim() - 1, -1, -1)
    elif x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        order = (1, 3, 2, 0)  # type: ignore[assignment]
    else:
        return False
    if 1 not in x.shape:
        return True
    stride = 1
    for axis in order:
        if x.stride(axis) != stride:
            return False
        stride *= x.shape[axis]
    return True
