"""Which composite operations capture takes apart, and into what.

To add one: write a function of the operation's own signature out of simpler torch operations and
list it in `OWN`. An operation in `WHOLE` stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Linear, pooling and norm operations that a report should name as one thing.
WHOLE = (
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d "
    "batch_norm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "group_norm instance_norm layer_norm linear matmul pixel_shuffle pixel_unshuffle rms_norm "
    "upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d "
    "upsample_nearest2d upsample_nearest3d upsample_trilinear3d"
).split()


def _wide(x: Tensor) -> Tensor:
    """Half-precision values as float32: fused kernels accumulate there."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """Two ramps and a linear map: relu(x) - w relu(-x)."""
    if weight.numel() > 1 and x.dim() > 1:
        weight = weight.view([1, -1] + [1] * (x.dim() - 2))
    elif weight.numel() == 1:
        weight = weight.view([])
    return torch.relu(x) - weight * torch.relu(-x)


def rrelu(
    x: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Tensor:
    """In eval mode a leaky ReLU of the mean slope."""
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Row maximum, exp, sum, reciprocal and a product."""
    result = dtype or x.dtype
    x = _wide(x if dtype is None else x.to(dtype))
    if x.dim() == 0:
        x, dim = x.view([1]), 0
        return _softmax(x, dim).view([]).to(result)
    return _softmax(x, dim).to(result)


def _softmax(x: Tensor, dim: int) -> Tensor:
    e = torch.exp(x - x.amax(dim, keepdim=True))
    return e * torch.reciprocal(e.sum(dim, keepdim=True))


def log_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """x - max - log(sum(exp(x - max)))."""
    result = dtype or x.dtype
    x = _wide(x if dtype is None else x.to(dtype))
    x = x - x.amax(dim, keepdim=True)
    return (x - torch.log(torch.exp(x).sum(dim, keepdim=True))).to(result)


def safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax in which a fully masked row gives zeros."""
    closed = (x == float("-inf")).all(dim, keepdim=True)
    return torch.where(closed, 0.0, softmax(torch.where(closed, 0.0, x), dim, dtype))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot product attention; a row that a mask closes entirely gives zeros."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key = key.repeat_interleave(groups, -3)
        value = value.repeat_interleave(groups, -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query * factor, key.transpose(-2, -1))
    closed = None
    if is_causal:
        attn_mask = torch.ones(
            query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device
        ).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = torch.where(attn_mask, scores, float("-inf"))
            closed = ~attn_mask.any(-1, keepdim=True)
        else:
            scores = scores + attn_mask
            closed = (attn_mask == float("-inf")).all(-1, keepdim=True)
    if closed is None or is_causal:
        return torch.matmul(softmax(scores, -1), value)
    # A closed row would be -inf minus -inf: keep NaN out of the neurons altogether.
    weights = softmax(torch.where(closed, 0.0, scores), -1)
    return torch.matmul(torch.where(closed, 0.0, weights), value)


OWN: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.prelu.default: prelu,
    torch.ops.aten._prelu_kernel.default: lambda x, weight: prelu(x, weight.flatten()),
    torch.ops.aten.rrelu.default: rrelu,
    torch.ops.aten.softmax.int: softmax,
    torch.ops.aten.special_softmax.default: softmax,
    torch.ops.aten.log_softmax.int: log_softmax,
    torch.ops.aten._safe_softmax.default: safe_softmax,
    torch.ops.aten.scaled_dot_product_attention.default: attention,
}


def table() -> Any:
    """The decomposition table for `ExportedProgram.run_decompositions`."""
    result = torch.export.default_decompositions()
    for name in WHOLE:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            result.pop(getattr(packet, overload), None)
    for operator, function in OWN.items():
        result[operator] = function
    return result
