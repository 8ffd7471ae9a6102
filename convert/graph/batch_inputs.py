"""What a batch of a user's holds: the inputs of a network, and what follows them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import InputError


def inputs_needed(model: nn.Module) -> int:
    """How many inputs `model.forward` can't be called without, at least 1."""
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return max(1, sum(p.kind in by_position and p.default is p.empty for p in parameters))


def leading(batch: Sequence[Any], takes: int) -> int:
    """How many of a batch's elements hold inputs."""
    return takes if takes > 1 and isinstance(batch[0], Tensor) else 1


def split_batch(
    batch: Any, device: torch.device | str | None = None, *, takes: int = 1
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs of a batch, on `device`.

    A batch is a tensor, a dict of keyword inputs, or a tuple or list. If that begins with a tensor,
    its first `takes` elements are the inputs: ``(x, label)`` for a network of one input, ``(x, t)``
    or ``(x, t, label)`` for one of two. Else its first element holds all inputs, a tuple or a
    dict: ``((x, t), label)``. What follows the inputs is a label.

    Raises:
        InputError: for anything else.
    """
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs = batch
    if isinstance(batch, tuple | list):
        if not batch:
            raise InputError("a batch is an empty tuple; give (inputs, label) or a tensor")
        count = leading(batch, takes)
        if len(batch) < count:
            raise InputError(
                f"a batch has {len(batch)} elements, but the network takes {takes} inputs; give "
                "all of them, then the label, if any"
            )
        inputs = batch[0] if count == 1 else batch[:count]
    if isinstance(inputs, Tensor):
        if takes > 1:
            raise InputError(
                f"a batch is one tensor, but the network takes {takes} inputs; give a list of "
                "batches (x, t), ((x, t), label), or dicts of keyword inputs"
            )
        args, kwargs = (inputs,), {}
    elif isinstance(inputs, tuple | list) and inputs:
        args, kwargs = tuple(inputs), {}
    elif isinstance(inputs, Mapping) and inputs:
        args, kwargs = (), dict(inputs)
    else:
        raise InputError(
            f"a batch holds a {type(inputs).__name__}; give a tensor, (inputs, label), or a dict "
            "of keyword inputs"
        )
    leaves = pytree.tree_leaves((args, kwargs))
    if not any(isinstance(leaf, Tensor) and leaf.dim() for leaf in leaves):
        raise InputError("a batch holds no tensor with a batch dimension")
    return pytree.tree_map(
        lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) and device else leaf,
        (args, kwargs),
    )
