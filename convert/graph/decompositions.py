"""Which composite operations capture takes apart, and into what.

To add one: write a function of the operation's own signature out of simpler torch operations and
list it in `OWN`; for an operation of one's own, call `register_decomposition`. An operation that
the table of `operators` keeps whole stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export.decomp_utils import CustomDecompTable

from ..common.registry import Registration, register
from ..errors import InputError
from .operators import OperatorLike, kept_whole, overload_of
from .recurrence import RECURRENT


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


def lerp(start: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """start + weight (end - start)."""
    return start + weight * (end - start)


OWN: dict[OpOverload, Callable[..., Any]] = {
    torch.ops.aten.lerp.Scalar: lerp,
    torch.ops.aten.lerp.Tensor: lerp,
    torch.ops.aten.prelu.default: prelu,
    torch.ops.aten._prelu_kernel.default: lambda x, weight: prelu(x, weight.flatten()),
    torch.ops.aten.rrelu.default: rrelu,
    torch.ops.aten.softmax.int: softmax,
    torch.ops.aten.special_softmax.default: softmax,
    torch.ops.aten.log_softmax.int: log_softmax,
    torch.ops.aten._safe_softmax.default: safe_softmax,
    torch.ops.aten.scaled_dot_product_attention.default: attention,
    **RECURRENT,
}


# What users add.
_REGISTERED: dict[OpOverload, Callable[..., Any]] = {}


def register_decomposition(operation: OperatorLike, function: Callable[..., Any]) -> Registration:
    """Says of what simpler operations one consists that this package would leave as it is.

    ::

        def swish(x: Tensor, beta: float) -> Tensor:
            return x * torch.sigmoid(beta * x)   # known operations: this becomes a site

        convert.register_decomposition(torch.ops.mylib.swish.default, swish)

    Args:
        operation: an overload, a ``torch.library.custom_op``, or its name ``"mylib::swish"``.
        function: of the operation's own signature, out of torch operations. Every capture from
            now on puts it in the operation's place.

    Returns:
        What was registered; its `remove` takes it out again.

    Raises:
        InputError: if it is no operation or no function, or has a decomposition already.
    """
    overload = overload_of(operation)
    if not callable(function):
        raise InputError(f"a decomposition is a function, found {function!r}")
    what = f"the decomposition of {overload}"
    if overload in OWN:
        raise InputError(f"{what} is known already: it is one of the package's own")
    return register(_REGISTERED, overload, function, what)


def table() -> CustomDecompTable:
    """The decomposition table for `ExportedProgram.run_decompositions`."""
    result = torch.export.default_decompositions()
    for name in kept_whole():
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            result.pop(getattr(packet, overload), None)
    for operator, function in (OWN | _REGISTERED).items():
        result[operator] = function
    return result
