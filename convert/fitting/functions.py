"""Functions to fit: by name, and on a distribution, where they become a `Problem`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FitError
from .problem import Array, Problem

Function = Callable[[Tensor], Tensor]


def function_named(name: str) -> Function:
    """An elementwise function of torch.nn.functional or torch.

    Raises:
        FitError: if there is none with that name.
    """
    for module in (F, torch):
        found = getattr(module, name, None)
        if callable(found) and not inspect.isclass(found) and not name.startswith("_"):
            return found
    known = [n for n in dir(F) + dir(torch) if n.islower() and not n.startswith("_")]
    near = get_close_matches(name, known, 3, 0.5) or ["silu", "gelu", "sigmoid"]
    raise FitError(f"torch has no function {name!r}; did you mean {', '.join(near)}?")


def problem_of(
    function: Function,
    edges: Array,
    weights: Array,
    steps: int,
    name: str = "",
    spike_cost: float = 0.0,
    gates: int = 0,
) -> Problem:
    """What a neuron is fitted to, for a function of tensors.

    Raises:
        FitError: if the function isn't elementwise, fails, or isn't finite in the range.
    """
    label = name or getattr(function, "__name__", type(function).__name__)
    centres = torch.from_numpy(0.5 * (edges[:-1] + edges[1:]))
    try:
        with torch.no_grad():
            values = function(centres)
    except Exception as error:
        raise FitError(
            f"{label} can't be evaluated on a float64 tensor of shape {list(centres.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(values, Tensor) or values.shape != centres.shape:
        found = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise FitError(
            f"{label} of a tensor of shape {list(centres.shape)} gives {found}; give an "
            "elementwise function"
        )
    return Problem(
        edges,
        weights,
        values.double().numpy(),
        steps,
        label,
        label,
        spike_cost=spike_cost,
        gates=gates,
    )
