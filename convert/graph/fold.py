"""Folding what doesn't depend on the input: constants, and batch norm into the layer before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .node_facts import read
from .operators import operator_of
from .run import compute

aten = torch.ops.aten


def add_buffer(graph_module: GraphModule, name: str, value: Tensor, before: Node) -> Node:
    """A get_attr node for a new buffer, placed before a node; copies its meta."""
    unique, count = name, 0
    while hasattr(graph_module, unique):
        count += 1
        unique = f"{name}_{count}"
    graph_module.register_buffer(unique, value)
    with graph_module.graph.inserting_before(before):
        node = graph_module.graph.get_attr(unique)
    node.meta = dict(before.meta)
    node.meta["val"] = value
    return node


def constants(graph_module: GraphModule) -> None:
    """Turns every value that depends neither on an input nor on the batch size into a buffer.

    Values made in forward have their device and dtype baked in; as buffers they follow `.to()`.
    """
    graph = graph_module.graph
    known: dict[Node, Any] = {}
    for node in graph.nodes:
        constant = node.op == "call_function" and all(i in known for i in node.all_input_nodes)
        drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op == "get_attr" or (constant and not drawn):
            known[node] = compute(graph_module, node, known)
    for node in list(graph.nodes):
        if node.op != "call_function" or node not in known:
            continue
        # Only what the rest of the graph reads is kept.
        if isinstance(known[node], Tensor) and any(user not in known for user in node.users):
            value = known[node].detach().clone()
            buffer = add_buffer(graph_module, f"constant_{node.name}", value, node)
            node.replace_all_uses_with(buffer)
        elif isinstance(known[node], bool | int | float):
            # A number that forward takes out of a parameter, as a learned bound.
            _write_number(node, known[node])
    _follow_device(graph_module)
    tidy(graph_module)


def _write_number(node: Node, number: bool | int | float) -> None:
    """Puts a number where a node is read."""
    for user in [user for user in node.users if user.op != "output"]:
        user.args, user.kwargs = map_arg(
            (user.args, user.kwargs), lambda read: number if read is node else read
        )


def _follow_device(graph_module: GraphModule) -> None:
    """Rewrites what is filled at the size of the batch so that it is made on the input's device."""
    graph = graph_module.graph
    inputs = [n for n in graph.nodes if n.op == "placeholder" and isinstance(n.meta["val"], Tensor)]
    for node in list(graph.nodes):
        if node.target is not aten.full.default or not inputs:
            continue
        kwargs = {"dtype": node.meta["val"].dtype}
        with graph.inserting_before(node):
            new = graph.call_function(aten.new_full.default, (inputs[0], *node.args), kwargs)
        new.meta = node.meta
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def batch_norms(graph_module: GraphModule) -> None:
    """Folds eval-mode batch norm into the conv or linear before it, in double precision.

    Where the layer has other readers, or shares its weights, the norm becomes a multiplication
    and an addition per channel: an affine synaptic operation.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        source, *names = node.args[:5]
        epsilon = node.args[6]
        weight, bias, mean, var = (
            None if name is None else read(graph_module, name).double() for name in names
        )
        scale = (var + epsilon).rsqrt() * (1.0 if weight is None else weight)
        shift = (0.0 if bias is None else bias) - mean * scale
        users = [user for user in node.users if user.args[1] == 0]
        if _foldable(source, node):
            result = _fold(graph_module, source, scale, shift)
        else:
            result = _affine(graph_module, node, source, scale, shift)
        for user in users:
            if user.meta.get("val") is not None and result is not source:
                result.meta["val"] = user.meta["val"]
            user.replace_all_uses_with(result)
    tidy(graph_module)


def _foldable(source: Node, norm: Node) -> bool:
    row = operator_of(source)
    if row is None or row.out_axis is None or set(source.users) != {norm}:
        return False
    if source.target is aten.linear.default and source.meta["val"].dim() != 2:
        return False  # the norm's channels are not the layer's
    tensors = [a for a in source.args[1:3] if isinstance(a, Node)]
    return all(t.op == "get_attr" and set(t.users) == {source} for t in tensors)


def _fold(graph_module: GraphModule, layer: Node, scale: Tensor, shift: Tensor) -> Node:
    row = operator_of(layer)
    assert row is not None and row.weight is not None and row.bias is not None
    axis = row.out_axis
    weight_node: Any = layer.args[row.weight]
    bias_node: Any = layer.args[row.bias] if len(layer.args) > row.bias else None
    weight = read(graph_module, weight_node)
    shape = [-1 if i == axis else 1 for i in range(weight.dim())]
    bias = read(graph_module, bias_node).double() if isinstance(bias_node, Node) else 0.0
    _write(graph_module, str(weight_node.target), (weight.double() * scale.view(shape)), weight)
    path = str(weight_node.target).rpartition(".")[0]
    target = str(bias_node.target) if isinstance(bias_node, Node) else _join(path, "bias")
    _write(graph_module, target, bias * scale + shift, weight)
    if not isinstance(bias_node, Node):
        with graph_module.graph.inserting_before(layer):
            bias_node = graph_module.graph.get_attr(target)
        bias_node.meta = dict(weight_node.meta)
        args = list(layer.args) + [None] * (row.bias + 1 - len(layer.args))
        args[row.bias] = bias_node
        layer.args = tuple(args)
    bias_node.meta["val"] = read(graph_module, bias_node)
    return layer


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _write(graph_module: GraphModule, target: str, value: Tensor, like: Tensor) -> None:
    path, _, name = target.rpartition(".")
    owner = graph_module.get_submodule(path)
    parameter = torch.nn.Parameter(value.to(like), requires_grad=False)
    if name in owner._buffers:
        del owner._buffers[name]
    setattr(owner, name, parameter)


def _affine(
    graph_module: GraphModule, norm: Node, source: Node, scale: Tensor, shift: Tensor
) -> Node:
    like = source.meta["val"]
    shape = [1, -1] + [1] * (like.dim() - 2)
    graph = graph_module.graph
    mean: Any = norm.args[3]
    device = read(graph_module, mean).device
    factor, offset = (
        add_buffer(graph_module, f"{name}_{norm.name}", t.view(shape).to(device, like.dtype), norm)
        for name, t in (("scale", scale), ("shift", shift))
    )
    with graph.inserting_before(norm):
        product = graph.call_function(aten.mul.Tensor, (source, factor))
        total = graph.call_function(aten.add.Tensor, (product, offset))
    product.meta, total.meta = dict(norm.meta), dict(norm.meta)
    product.meta["val"] = total.meta["val"] = like
    return total


def tidy(graph_module: GraphModule) -> None:
    """Drops dead nodes and every tensor that no node names, and recompiles."""
    graph = graph_module.graph
    graph.eliminate_dead_code()
    used = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    for prefix, module in list(graph_module.named_modules()):
        for store in (module._parameters, module._buffers):
            for name in list(store):
                if _join(prefix, name) not in used:
                    del store[name]
    called = {str(n.target) for n in graph.nodes if n.op == "call_module"}
    named = used | called
    parents: set[str] = set()
    for target in named:
        while target := target.rpartition(".")[0]:
            parents.add(target)
    _prune(graph_module, "", named, parents)
    graph.lint()
    graph_module.recompile()


def _prune(module: torch.nn.Module, path: str, named: set[str], parents: set[str]) -> None:
    """Drops the modules inside which nothing is named."""
    for name, child in list(module._modules.items()):
        full = _join(path, name)
        if full in named:
            continue
        if full not in parents:
            del module._modules[name]
        elif child is not None:
            _prune(child, full, named, parents)
