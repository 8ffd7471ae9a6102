"""How many images the inputs of a call hold, and a call with fewer or more of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import InputError


def batch_size(inputs: Any) -> int:
    """Length of the first dimension of the first tensor in a tree of inputs."""
    for leaf in pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.dim():
            return int(leaf.shape[0])
    raise InputError("no tensor with a batch dimension among the inputs")


def rows(inputs: Any, count: int, start: int = 0) -> Any:
    """The inputs with exactly `count` rows from `start` on, from the first again after the last."""
    size = batch_size(inputs)
    if size == 0:
        raise InputError("a calibration batch has no rows; give at least one image")

    def take(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0 or leaf.shape[0] != size:
            return leaf
        return leaf[torch.arange(start, start + count, device=leaf.device) % size]

    return pytree.tree_map(take, inputs)
