"""A model as torch.export sees it: a plain graph with a symbolic batch size."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from ..common.messages import first_line
from ..errors import CaptureError
from .batch_layout import Axes
from .decompositions import table

# Images of the batch that is exported.
EXPORTED_ROWS = 5


def export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], axes: Axes
) -> torch.export.ExportedProgram:
    """The model's program, taken apart as the decompositions say.

    Args:
        model: what is exported.
        args, kwargs: its inputs.
        axes: the batch axis of every flat input.

    Raises:
        CaptureError: with torch's reason, if the model can't be exported.
    """
    batch = torch.export.Dim("batch", min=1)
    dynamic = [None if axis is None else {axis: batch} for axis in axes]
    shapes = pytree.tree_unflatten(dynamic, pytree.tree_structure((args, kwargs)))
    names = list(inspect.signature(model.forward).parameters)
    try:
        by_name = dict(zip(names, shapes[0], strict=False)) | shapes[1]
        variadic = any(
            parameter.kind is parameter.VAR_POSITIONAL
            for parameter in inspect.signature(model.forward).parameters.values()
        )
        exported = torch.export.export(
            model,
            args,
            kwargs,
            dynamic_shapes=(shapes[0],) if variadic else by_name,
        )
        return exported.run_decompositions(table())
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} can't be captured by torch.export: {first_line(error)}; "
            "forward must not branch on tensor values, nor on the batch size: use torch.where, "
            "or convert the part that is free of such branches"
        ) from error


def plain(module: nn.Module) -> GraphModule:
    """A GraphModule without guards, hooks, input trees or assertions; flat inputs and outputs."""
    source = module.graph
    assert isinstance(source, Graph)
    source.set_codegen(CodeGen())
    for node in list(source.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            source.erase_node(node)
        elif node.op == "call_function" and _is_assertion(node.target):
            source.erase_node(node)
        elif node.target is torch.ops.aten.copy_.default:
            # State that forward would write back; the check of the outputs decides if it matters.
            node.replace_all_uses_with(node.args[1])
            source.erase_node(node)
    output = next(iter(reversed(source.nodes)))
    leaves = output.args[0]
    output.args = (tuple(leaves) if isinstance(leaves, tuple | list) else (leaves,),)
    source.eliminate_dead_code()
    graph_module = GraphModule(module, source, class_name="Captured")
    return graph_module.eval()


def _is_assertion(target: Callable[..., Any] | str) -> bool:
    name = str(target)
    return "_assert" in name or "sym_constrain" in name
