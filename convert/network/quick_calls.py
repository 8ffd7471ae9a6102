"""ATen's operations by the names that torch itself binds to Python: the same, at half the price.

`torch.ops.aten...` looks its arguments up in a schema at every call, which takes longer than a
small operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph

aten = torch.ops.aten


def _size(x: Tensor, axis: int) -> int:
    """The length of an axis."""
    return x.shape[axis]


# Each takes the same arguments in the same places.
QUICK: Mapping[Any, Callable[..., Any]] = {
    aten._softmax.default: torch._softmax,
    aten.adaptive_avg_pool2d.default: torch._C._nn.adaptive_avg_pool2d,
    aten.add.Tensor: torch.add,
    aten.amax.default: torch.amax,
    aten.avg_pool2d.default: torch._C._nn.avg_pool2d,
    aten.bmm.default: torch.bmm,
    aten.cat.default: torch.cat,
    aten.clone.default: torch.clone,
    aten.constant_pad_nd.default: torch.constant_pad_nd,
    aten.conv2d.default: torch.conv2d,
    aten.div.Tensor: torch.div,
    aten.embedding.default: torch.embedding,
    aten.layer_norm.default: torch.layer_norm,
    aten.linear.default: torch._C._nn.linear,
    aten.matmul.default: torch.matmul,
    aten.max_pool2d.default: torch.max_pool2d,
    aten.mean.dim: torch.mean,
    aten.mul.Tensor: torch.mul,
    aten.permute.default: torch.permute,
    aten.reshape.default: torch.reshape,
    aten.select.int: torch.select,
    aten.squeeze.dims: torch.squeeze,
    aten.sub.Tensor: torch.sub,
    aten.sum.dim_IntList: torch.sum,
    aten.sym_size.int: _size,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
}


def call_quickly(graph: Graph) -> None:
    """Lets a graph, as it runs, call operations by their quick names."""
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = QUICK.get(node.target, node.target)
