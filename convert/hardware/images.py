"""Images as whole pixels: found where the values of every channel lie on a grid of at most 256."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .records import Pixels

_LEVELS = 256
# How far a value may lie from the grid, in steps.
_OFF = 0.02


def pixels_of(images: Sequence[Tensor]) -> Pixels | None:
    """The pixels that images consist of, channel by channel; None where they don't.

    ``x = base + step * p`` with whole p, as images of uint8 that were divided and normalised.

    Args:
        images: ``[N, C, ...]`` each.
    """
    if not images or any(x.dim() < 3 or not bool(x.isfinite().all()) for x in images):
        return None
    base, step, zero, levels = [], [], [], 0
    for channel in range(images[0].shape[1]):
        values = torch.unique(torch.cat([x[:, channel].double().flatten() for x in images]))
        found = _grid(values)
        if found is None:
            return None
        low, width, count = found
        # Whole numbers from 0 on, so that a value of 0 has a pixel near to it where there is one.
        base.append(low)
        step.append(width)
        zero.append(min(max(round(-low / width), 0), _LEVELS - 1))
        levels = max(levels, count)
    return Pixels(
        torch.tensor(base, dtype=torch.float64),
        torch.tensor(step, dtype=torch.float64),
        torch.tensor(zero, dtype=torch.int64),
        max(levels, _LEVELS),
    )


def _grid(values: Tensor) -> tuple[float, float, int] | None:
    """Lowest value, step, and number of levels of a grid on which values lie."""
    gaps = values.diff()
    near = gaps[gaps > 1e-3 * gaps.max()] if len(gaps) else gaps
    if not len(near):
        return None
    low, step = float(values[0]), float(near.min())
    for _ in range(3):
        # Rounded floats tell the step better the farther they lie apart.
        place = torch.round((values - low) / step)
        if float(place[-1]) < 1:
            return None
        step = float((values[-1] - low) / place[-1])
    off = ((values - low) / step - torch.round((values - low) / step)).abs().max()
    count = int(torch.round((values[-1] - low) / step)) + 1
    return (low, step, count) if float(off) < _OFF and count <= _LEVELS else None
