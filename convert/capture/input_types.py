"""Inputs of another type than a model's own: taken as they are, or cast where the model refuses."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..calls.batch_inputs import rows
from ..calls.batch_reading import unscaled
from .fidelity import CHECKED_ROWS


def as_taken(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], notes: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of a call, cast to the model's floating-point type where it refuses theirs.

    Floating-point inputs and images in uint8 are cast, other whole numbers are not. If the model
    refuses the cast ones too, they are left as they are.

    Args:
        model: in eval mode.
        args, kwargs: of a call.
        notes: told what was cast.
    """
    own = _own_type(model)
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    odd = [leaf for leaf in leaves if _castable(leaf) and leaf.dtype != own]
    if own is None or not odd or _takes(model, args, kwargs):
        return args, kwargs
    cast_args, cast_kwargs = pytree.tree_map_only(
        Tensor, lambda leaf: leaf.to(own) if _castable(leaf) else leaf, (args, kwargs)
    )
    if not _takes(model, cast_args, cast_kwargs):
        return args, kwargs
    for dtype in dict.fromkeys(leaf.dtype for leaf in odd):
        if dtype == torch.uint8:
            notes.append(unscaled(own))
            warnings.warn(notes[-1], stacklevel=6)
        else:
            notes.append(f"{dtype} inputs of a batch were cast to {own}")
    return cast_args, cast_kwargs


def _castable(leaf: Tensor) -> bool:
    """Whether a tensor is one of floating-point numbers, or could be an image."""
    return leaf.is_floating_point() or (leaf.dtype == torch.uint8 and leaf.dim() > 1)


def _own_type(model: nn.Module) -> torch.dtype | None:
    """The type of a model's first floating-point parameter; None without one."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def _takes(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a model can be called so."""
    # A batch that must be a multiple of some images, or isn't the first axis, can't be cut so.
    for few_args, few_kwargs in (rows((args, kwargs), CHECKED_ROWS), (args, kwargs)):
        try:
            with torch.no_grad():
                model(*few_args, **few_kwargs)
        except Exception:
            continue
        return True
    return False
