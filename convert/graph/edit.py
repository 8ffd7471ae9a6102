"""Adds operations to a captured graph, with the shape of every value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from . import fold
from .node_facts import without_data
from .origins import OUTPUT_OF

# Key of a node's meta: what a site there is called within its layer.
SITE_NAME = "site_name"


class Emitter:
    """Puts operations before a node; they come from where that node came from.

    Args:
        graph_module: a captured graph.
        before: the node.
    """

    def __init__(self, graph_module: GraphModule, before: Node) -> None:
        self.graph_module, self.before = graph_module, before

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """A call of an ATen operation; its value's shape is inferred without data."""
        with self.graph_module.graph.inserting_before(self.before):
            node = self.graph_module.graph.call_function(target, args, kwargs)
        left_out = (OUTPUT_OF, SITE_NAME)
        node.meta = {k: v for k, v in self.before.meta.items() if k not in left_out}
        node.meta["val"] = self._infer(target, args, kwargs)
        return node

    def constant(self, name: str, value: Tensor) -> Node:
        """A new buffer of the network; `name` is made unique."""
        value = value.to(device_of(self.graph_module))
        node = fold.add_buffer(self.graph_module, name, value, self.before)
        node.meta.pop(OUTPUT_OF, None)
        return node

    def replace(self, old: Node, new: Node) -> None:
        """Lets every reader of a node read another, which is then what its layer returns."""
        if OUTPUT_OF in old.meta:
            new.meta[OUTPUT_OF] = [*new.meta.get(OUTPUT_OF, ()), *old.meta[OUTPUT_OF]]
        old.replace_all_uses_with(new)
        self.graph_module.graph.erase_node(old)

    def _infer(self, target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        values: Any = map_arg((args, kwargs), lambda node: node.meta["val"])
        leaves = pytree.tree_leaves(values)
        mode = next((v.fake_mode for v in leaves if isinstance(v, FakeTensor)), None)

        def fake(tensor: Tensor) -> Tensor:
            if mode is None or isinstance(tensor, FakeTensor):
                return tensor
            return mode.from_tensor(tensor, static_shapes=True)

        values = pytree.tree_map_only(Tensor, fake, values)
        with without_data(mode):
            return target(*values[0], **values[1])


def device_of(graph_module: GraphModule) -> torch.device:
    """Where a network's tensors lie."""
    return next((t.device for t in graph_module.state_dict().values()), torch.device("cpu"))
