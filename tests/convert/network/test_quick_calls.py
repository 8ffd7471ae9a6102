"""Torch's own names of operations give what ATen's give."""

from typing import Any

import pytest
import torch
from torch.fx import Graph

from convert.network.quick_calls import QUICK, call_quickly

aten = torch.ops.aten
x, w = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 2, 2)
m = torch.randn(3, 4)
_CALLS: dict[Any, tuple[tuple[Any, ...], dict[str, Any]]] = {
    aten._softmax.default: ((x, 1, False), {}),
    aten.adaptive_avg_pool2d.default: ((x, [1, 2]), {}),
    aten.add.Tensor: ((x, x), {"alpha": 2}),
    aten.amax.default: ((x, [-1], True), {}),
    aten.avg_pool2d.default: ((x, [2, 2], [1, 1], [0, 0], False, True, None), {}),
    aten.bmm.default: ((x[:, 0], x[:, 1]), {}),
    aten.cat.default: (([x, x], 1), {}),
    aten.clone.default: ((x.transpose(1, 2),), {"memory_format": torch.contiguous_format}),
    aten.constant_pad_nd.default: ((x, [0, 0, 1, 1], 0.5), {}),
    aten.conv2d.default: ((x, w, None, [1, 1], [1, 1], [1, 1], 1), {}),
    aten.div.Tensor: ((x, 3.0), {}),
    aten.embedding.default: ((m, torch.tensor([0, 2]), 1, False, False), {}),
    aten.layer_norm.default: ((m, [4], torch.ones(4), None, 1e-6, False), {}),
    aten.linear.default: ((x, torch.randn(2, 4), torch.randn(2)), {}),
    aten.matmul.default: ((x, x.transpose(2, 3)), {}),
    aten.max_pool2d.default: ((x, [2, 2], [2, 2]), {}),
    aten.mean.dim: ((x, [2, 3], True), {"dtype": torch.float64}),
    aten.mul.Tensor: ((x, 0.125), {}),
    aten.permute.default: ((x, [0, 2, 3, 1]), {}),
    aten.reshape.default: ((x, [2, -1]), {}),
    aten.select.int: ((x, 1, -1), {}),
    aten.squeeze.dims: ((x[:, :1], [1, -1]), {}),
    aten.sub.Tensor: ((x, x[:1]), {}),
    aten.sum.dim_IntList: ((x, [-1], True), {}),
    aten.sym_size.int: ((x, 1), {}),
    aten.transpose.int: ((x, 1, -1), {}),
    aten.unsqueeze.default: ((x, -1), {}),
}


def test_every_operation_is_tried() -> None:
    assert set(_CALLS) == set(QUICK)


@pytest.mark.parametrize("operation", QUICK, ids=str)
def test_the_same(operation: Any) -> None:
    args, kwargs = _CALLS[operation]
    expected, found = operation(*args, **kwargs), QUICK[operation](*args, **kwargs)
    if isinstance(expected, int):
        assert found == expected
        return
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype and found.stride() == expected.stride()


def test_a_graph_calls_them() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    graph.output(
        graph.call_function(aten.erf.default, (graph.call_function(aten.mul.Tensor, (x, 2)),))
    )
    call_quickly(graph)
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    assert targets == [torch.mul, aten.erf.default]
