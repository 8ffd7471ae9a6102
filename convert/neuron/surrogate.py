"""What stands in for the derivative of a spike: a triangle around the threshold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# No triangle is narrower than this share of the widest.
_NARROWEST = 1e-2


class _Fire(torch.autograd.Function):
    # `torch.func.vmap` batches the three functions below by itself.
    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, threshold: Tensor, width: Tensor) -> Tensor:
        return (v > threshold).to(v.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        slope = gradient * _triangle(*ctx.saved_tensors)
        return slope, -slope.sum(), None

    @staticmethod
    def jvp(ctx: Any, v: Tensor | None, threshold: Tensor | None, width: None) -> Tensor:
        slope = _triangle(*ctx.saved_tensors)
        moved = torch.zeros_like(slope) if v is None else v
        return slope * (moved if threshold is None else moved - threshold)


def _triangle(v: Tensor, threshold: Tensor, width: Tensor) -> Tensor:
    """max(0, 1 - |v - T| / width) / width."""
    return (1 - (v - threshold).abs() / width).clamp_min(0) / width


def fire(v: Tensor, threshold: Tensor, width: Tensor) -> Tensor:
    """Spikes [v > T] as 0 and 1, with the derivative max(0, 1 - |v - T| / width) / width.

    Args:
        v: membrane potential ``[...]``.
        threshold, width: scalars, in units of v.
    """
    return _Fire.apply(v, threshold, width)


def widths(resets: Tensor) -> Tensor:
    """Half the base of each step's triangle ``[K]``: the reset h(t), the scale of v at that step.

    So the triangle scales with the neuron's input. The last reset changes nothing any more and
    may hold anything: there half of the one before is taken.
    """
    size = resets.detach().abs()
    if len(size) > 1:
        size = torch.cat([size[:-1], size[-2:-1] / 2])
    largest = size.max()
    return torch.where(largest > 0, size.clamp_min(_NARROWEST * largest), 1.0)


def gate_widths(gates: Tensor, resets: Tensor) -> Tensor:
    """Half the base of each gate's triangle ``[G - 1]``, in units of the input.

    That is the larger of the last resets of the two tables beside it, the scale on which both
    outputs move, and no more than the distance to the next gate, as long as there is one.

    Args:
        gates: ``[G - 1]``, in order.
        resets: ``[G, K]``.
    """
    scale = torch.stack([widths(row)[-1] for row in resets]).detach()
    size = torch.maximum(scale[:-1], scale[1:])
    least = _NARROWEST * size
    if len(gates) > 1:
        apart = gates.detach().diff()
        size[:-1] = torch.minimum(size[:-1], apart)
        size[1:] = torch.minimum(size[1:], apart)
    return torch.maximum(size, least)
