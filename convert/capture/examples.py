"""The batches of examples that a model is captured with and checked on, of sizes that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..calls.batch_layout import Axes, image_count, resized
from ..calls.own_classes import check_outputs, register
from .cached_state import CachedState
from .fidelity import CHECKED_ROWS
from .varying import Lengths, Varying, with_lengths

# Images of the batch that is exported.
EXPORTED_ROWS = 5
# What a batch may have to be a multiple of: `x.view(-1, 8, ...)`.
DIVISORS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Examples:
    """Example inputs of a model.

    Args:
        given: the inputs of a user's batch, ``(args, kwargs)``.
        axes: the batch axis of every flat input.
        unit: forward takes multiples of so many images; 1 where it takes any.
        varying: the lengths that vary beside the batch.
    """

    given: Inputs
    axes: Axes
    unit: int = 1
    varying: tuple[Varying, ...] = ()

    @property
    def images(self) -> int:
        """Images of the user's batch."""
        return image_count(pytree.tree_leaves(self.given), self.axes)

    @property
    def exported(self) -> int:
        """Images of the batch that is exported."""
        return EXPORTED_ROWS * self.unit

    @property
    def checked(self) -> Inputs:
        """What the graph is checked on: other images than those exported, and not as many.

        They have other lengths, too, where these vary.
        """
        return self.of(CHECKED_ROWS * self.unit, self.exported, self.checked_lengths)

    @property
    def checked_lengths(self) -> dict[str, int]:
        """Those of the inputs that the graph is checked on."""
        return {v.name: v.checked for v in self.varying}

    def of(self, size: int, start: int = 0, lengths: Lengths | None = None) -> Inputs:
        """Inputs with exactly `size` images, from one on, from the first again after the last.

        Args:
            size: how many images.
            start: the first of them.
            lengths: those that vary; as they are exported if None.
        """
        leaves, spec = pytree.tree_flatten(self.given)
        leaves = resized(leaves, self.axes, size, start)
        wanted = {v.name: v.exported for v in self.varying} | dict(lengths or {})
        inputs: Inputs = pytree.tree_unflatten(with_lengths(leaves, self.varying, wanted), spec)
        return inputs

    @property
    def sizes(self) -> Sequence[int]:
        """Sizes to export with, the next where one can't be used: 5, then such that divide well."""
        return tuple(dict.fromkeys(EXPORTED_ROWS * max(n, self.unit) for n in (1, 2, 8)))


def unit_of(model: nn.Module, given: Inputs, axes: Axes) -> int:
    """What the size of a batch must be a multiple of; 1 where the model takes none of the sizes.

    Args:
        model: in eval mode.
        given: the inputs of a batch.
        axes: the batch axis of every flat input.
    """
    for unit in DIVISORS:
        example = Examples(given, axes, unit)
        if unit > max(example.images, 1):
            break
        try:
            with torch.no_grad():
                for size in (CHECKED_ROWS, EXPORTED_ROWS) if unit > 1 else (CHECKED_ROWS,):
                    args, kwargs = example.of(size * unit)
                    model(*args, **kwargs)
        except Exception:
            continue
        return unit
    # The check of the outputs says why.
    return 1


def caches_of(model: nn.Module, example: Examples) -> CachedState:
    """What forward keeps from call to call.

    Args:
        model: the copy that is captured.
        example: its inputs.

    Raises:
        CaptureError: for outputs without tensors that torch can see.
    """
    state = CachedState(model)
    args, kwargs = example.of(example.exported)
    with torch.no_grad():
        result = model(*args, **kwargs)
    state.called({example.exported, *(v.exported for v in example.varying)})
    register(result)
    check_outputs(result)
    return state
