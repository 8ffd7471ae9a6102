"""The neuron as one operator of torch, which compilers call and don't look into.

Left to themselves they would fuse its steps with what lies around them, and round differently.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import fused
from .on_cpu import Rows
from .steps import Tables, run

_LIBRARY = torch.library.Library("fewspikes", "FRAGMENT")
_LIBRARY.define(
    "neuron(Tensor x, Tensor thresholds, Tensor resets, Tensor weights, Tensor offset, "
    "Tensor? gates, int steps) -> Tensor",
    # It takes any layout and gives the same: a compiler needn't lay anything out for it.
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)


def wanted(counting: bool) -> bool:
    """Whether the operator stands for the steps: a compiler follows, and nobody asks for events.

    An exported program names only operators of torch's own.
    """
    return (
        torch.compiler.is_dynamo_compiling() and not counting and not torch.compiler.is_exporting()
    )


def neuron(x: Tensor, tables: Tables, steps: int) -> Tensor:
    """The output of a neuron for ``x [...]``, of x's type and layout; no gradient passes.

    Args:
        x: membrane potentials at the first step, floating point.
        tables: T, h, d, y0 and gates.
        steps: how many of the K are done.
    """
    made: Tensor = torch.ops.fewspikes.neuron(x, *tables, steps)
    return made


def _computed(
    x: Tensor, T: Tensor, h: Tensor, d: Tensor, offset: Tensor, gates: Tensor | None, steps: int
) -> Tensor:
    tables = Tables(T, h, d, offset, gates)
    state = T.dtype if x.dtype is T.dtype else torch.promote_types(x.dtype, T.dtype)
    v = x if x.dtype is state or fused.casts(x) else x.to(state)
    if fused.usable(v) and fused.readable(tables, state):
        kept = _rows(T.data_ptr())
        y, _, _ = fused.run(v, tables, False, steps=steps, in_place=v is not x, kept=kept)
    else:
        y, _ = run(v, tables, steps, learns=False, counting=False)
    y = y if y.dtype is x.dtype else y.to(x.dtype)
    if y.stride() == x.stride():
        return y
    like = torch.empty_like(x)
    return y if y.stride() == like.stride() else like.copy_(y)


@lru_cache(maxsize=4096)
def _rows(_: int) -> Rows:
    """What was kept of the numbers at an address; it compares them, whoever's they are by now."""
    return Rows()


def _as_told(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


_LIBRARY.impl("neuron", _computed, "CompositeExplicitAutograd")
torch.library.register_fake("fewspikes::neuron", _as_told, lib=_LIBRARY)
