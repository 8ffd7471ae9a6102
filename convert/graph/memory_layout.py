"""The memory layout in which a network runs.

With few channels a convolution takes a quarter less time channels-last than as given. Only the
inputs are laid out anew, the layers follow; views, which expect a layout, become reshapes. Linear
layers take their rows as they lie in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Graph, GraphModule, Node

from .edit import Emitter
from .node_facts import read, without_data
from .origins import OUTPUT_OF
from .run import compute

aten = torch.ops.aten

_VIEWS = (aten.view.default, aten._unsafe_view.default)
# What leaves axes in their order.
_MOVING = (aten.reshape.default, aten.clone.default, aten.contiguous.default, *_VIEWS)


def free_layout(graph_module: GraphModule) -> None:
    """Makes every view of the graph and of the graphs inside a reshape: the same values."""
    for module in graph_module.modules():
        if not isinstance(module, GraphModule):
            continue
        for node in module.graph.nodes:
            if node.target in _VIEWS:
                node.target = aten.reshape.default
        module.recompile()


def loosen_views(graph_module: GraphModule) -> None:
    """Makes those views reshapes whose input lies in memory in another way than they expect.

    A norm that is taken apart keeps the layout of its input, where the whole one gives rows that
    lie one after the other.

    Args:
        graph_module: a graph whose nodes know their values' shapes; it calls no modules.
    """
    placed = [node for node in graph_module.graph.nodes if node.op != "output"]
    shapes = (node.meta.get("val") for node in placed)
    mode = next((value.fake_mode for value in shapes if isinstance(value, FakeTensor)), None)
    if mode is None:
        free_layout(graph_module)
        return
    known: dict[Node, Any] = {}
    with without_data(mode):
        for node in placed:
            if node.op == "placeholder":
                known[node] = node.meta["val"]
            elif node.op == "get_attr":
                tensor = read(graph_module, node)
                known[node] = mode.from_tensor(tensor, static_shapes=True)
            else:
                known[node] = _laid_out(graph_module, node, known)
    graph_module.recompile()


def _laid_out(graph_module: GraphModule, node: Node, known: Mapping[Node, Any]) -> Any:
    """A node's value without data; a view that can't be one is a reshape from now on."""
    try:
        return compute(graph_module, node, known)
    except (RuntimeError, ValueError):
        if node.target not in _VIEWS:
            raise
        node.target = aten.reshape.default
        return compute(graph_module, node, known)


def linear_first(graph_module: GraphModule) -> None:
    """Lets a linear layer come before the permutation of its input: on dense rows it is faster.

    `nn.MultiheadAttention` permutes the batch before every projection.
    """
    for linear in list(graph_module.graph.nodes):
        if linear.target is not aten.linear.default:
            continue
        permute = linear.args[0]
        if permute.target is not aten.permute.default or len(permute.users) > 1:
            continue
        source, order = permute.args
        rank = len(order)
        value = linear.meta.get("val")
        # A vector of weights takes the last axis away; what a layer gives stays as it is.
        known = isinstance(value, Tensor) and value.dim() == rank
        if [axis % rank for axis in order][-1] != rank - 1 or not known:
            continue
        if OUTPUT_OF in permute.meta:
            continue
        if OUTPUT_OF in linear.meta:
            permute.meta[OUTPUT_OF] = linear.meta.pop(OUTPUT_OF)
        linear.replace_all_uses_with(permute)
        linear.args = (source, *linear.args[1:])
        permute.args = (linear, order)
        linear.append(permute)
        back = sorted(range(rank), key=lambda axis: order[axis] % rank)
        permute.meta["val"], linear.meta["val"] = value, value.permute(back).contiguous()
    graph_module.graph.lint()
    graph_module.recompile()


def spread_rows_first(graph_module: GraphModule) -> None:
    """Lets rows be spread over axes, and these change places, before a linear layer.

    There it joins what is done to the layer's input: `nn.MultiheadAttention` brings the input of
    its last projection into rows, and what comes out back into images and positions.

    Args:
        graph_module: a graph whose nodes know their values' shapes; others stay as they are.
    """
    for linear in list(graph_module.graph.nodes):
        while linear is not None and linear.target is aten.linear.default:
            linear = _moved_behind(graph_module, linear)


def _moved_behind(graph_module: GraphModule, linear: Node) -> Node | None:
    """The linear layer, behind what was done to its output; None where nothing was moved."""
    given: Any = linear.args[0]
    weights = linear.args[1:]
    if len(linear.users) != 1 or OUTPUT_OF in linear.meta or linear.kwargs:
        return None
    (after,) = linear.users
    shapes: list[Any] = [node.meta.get("val") for node in (given, linear, after)]
    moves: Any = after.args[1] if len(after.args) > 1 else None
    if not all(isinstance(value, Tensor) for value in shapes) or not _rearranged(given):
        return None
    if shapes[1].dim() != shapes[0].dim():  # a vector of weights takes the last axis away
        return None
    if after.target in (aten.reshape.default, aten.view.default):
        if shapes[2].shape[-1] != shapes[1].shape[-1]:
            return None
        args: list[Any] = [*moves[:-1], shapes[0].shape[-1]]
    elif after.target is aten.permute.default:
        rank = shapes[1].dim()
        args = [axis % rank for axis in moves]
        if args[-1] != rank - 1:
            return None
    else:
        return None
    if not all(isinstance(a, int | Node) for a in args):
        return None
    emit = Emitter(graph_module, after)
    result = emit.call(aten.linear.default, emit.call(after.target, given, args), *weights)
    emit.replace(after, result)
    graph_module.graph.erase_node(linear)
    return result


def _rearranged(node: Any) -> bool:
    """Whether axes have changed places on the way to a value."""
    while isinstance(node, Node) and node.op == "call_function" and node.args:
        if node.target in (aten.permute.default, aten.transpose.int):
            return True
        if node.target not in _MOVING or OUTPUT_OF in node.meta:
            return False
        node = node.args[0]
    return False


def prefers_channels_last(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether inputs are to be laid out channels-last: something convolves, and has no views."""
    graphs: list[Graph] = [
        inner.graph
        for module in modules
        for inner in module.modules()
        if isinstance(inner, GraphModule)
    ]
    targets = {node.target for graph in graphs for node in graph.nodes}
    return aten.conv2d.default in targets and not targets.intersection(_VIEWS)
