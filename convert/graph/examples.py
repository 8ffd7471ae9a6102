"""The batches of examples that a model is captured with and checked on, of sizes that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .batch_inputs import batch_size, rows
from .cached_state import CachedState
from .fidelity import CHECKED_ROWS
from .flat_call import check_call
from .own_classes import check_outputs, register

# Images of the batch that is exported.
EXPORTED_ROWS = 5
# What a batch may have to be a multiple of: `x.view(-1, 8, ...)`.
_DIVISORS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Examples:
    """Example inputs of a model.

    Args:
        given: the inputs of a user's batch, ``(args, kwargs)``.
        unit: forward takes multiples of so many images; 1 where it takes any.
        state: what forward keeps from call to call.
    """

    given: Inputs
    unit: int
    state: CachedState

    @property
    def exported(self) -> int:
        """Images of the batch that is exported."""
        return EXPORTED_ROWS * self.unit

    @property
    def checked(self) -> Inputs:
        """What the graph is checked on: not as many images as are exported."""
        return self.of(CHECKED_ROWS * self.unit)

    def of(self, size: int) -> Inputs:
        """Inputs with exactly `size` images."""
        inputs: Inputs = rows(self.given, size)
        return inputs

    @property
    def sizes(self) -> Sequence[int]:
        """Sizes to export with, the next where one can't be used: 5, then such that divide well."""
        return tuple(dict.fromkeys(EXPORTED_ROWS * max(n, self.unit) for n in (1, 2, 8)))


def examples(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Examples:
    """Example inputs of sizes that `model` takes; the model's own if it takes none of them.

    Args:
        model: the copy that is captured.
        args: inputs of a batch by position.
        kwargs: inputs by name.

    Raises:
        CaptureError: for inputs that forward can't be called with, or outputs without tensors
            that torch can see.
    """
    check_call(model, args, kwargs)
    state = CachedState(model)
    given = (args, kwargs)
    size = batch_size(given)
    for unit in _DIVISORS:
        if unit > 1 and unit > size:
            break
        try:
            with torch.no_grad():
                found = rows(given, CHECKED_ROWS * unit)
                result = model(*found[0], **found[1])
                if unit > 1:
                    found = rows(given, EXPORTED_ROWS * unit)
                    model(*found[0], **found[1])
        except Exception:
            continue
        state.called(CHECKED_ROWS * unit if unit == 1 else EXPORTED_ROWS * unit)
        register(result)
        check_outputs(result)
        return Examples(given, unit, state)
    # The check of the outputs says why.
    return Examples(given, 1, state)
