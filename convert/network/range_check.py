"""A warning for inputs far outside the calibrated range, and which sites it drives outside."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..calibration.histogram import HIDDEN
from ..errors import RangeWarning

# An input may exceed its range on either side by this share of its width without a word.
_MARGIN = 0.25
# So many sites are named in a warning.
_NAMED = 5


@dataclass
class Outside:
    """Values of one site outside the range that calibration saw.

    Args:
        low, high: that range.
        count: values outside; -inf, which masks make, isn't counted where the neuron knows it.
        values: all values.
    """

    low: float
    high: float
    count: int = 0
    values: int = 0


def inputs_outside(leaves: Iterable[Any], ranges: Iterable[tuple[float, float] | None]) -> bool:
    """Whether a floating-point input lies clearly outside its calibrated range.

    Args:
        leaves: the flat inputs of a call.
        ranges: lowest and highest calibrated value of each; None for one that isn't checked.
    """
    for leaf, limits in zip(leaves, ranges, strict=False):
        if limits is None or not isinstance(leaf, Tensor) or not leaf.numel() or leaf.is_meta:
            continue
        if leaf.is_cuda and torch.cuda.is_current_stream_capturing():
            # Nothing can be read while a CUDA graph is recorded.
            continue
        margin = _MARGIN * (limits[1] - limits[0])
        low, high = (float(bound) for bound in torch.aminmax(leaf.detach()))
        # NaN compares false: it is no matter of range.
        if low < limits[0] - margin or high > limits[1] + margin:
            return True
    return False


class OutsideCounter:
    """Counts values outside the calibrated range; one of a run's watchers.

    Args:
        ranges: lowest and highest calibrated input of every site.
        masked: sites whose neuron gives for -inf, which masks make, what their function gives.

    Attributes:
        found: what was counted, by the name of the site; only of sites that spiked.
    """

    def __init__(
        self, ranges: Mapping[str, tuple[float, float]], masked: Container[str] = ()
    ) -> None:
        self.ranges, self.masked = ranges, masked
        self.found: dict[str, Outside] = {}

    def __call__(self, site: str, x: Tensor) -> None:
        """Counts the input of a site, ``[...]``."""
        if site not in self.ranges:
            return
        x = x.detach()
        entry = self.found.setdefault(site, Outside(*self.ranges[site]))
        # The range is that of exact values: rounding to half precision isn't outside.
        slack = torch.finfo(x.dtype).eps * max(abs(entry.low), abs(entry.high))
        below = x < entry.low - slack
        if site in self.masked:
            below &= x > HIDDEN
        beyond = (x > entry.high + slack) | below
        entry.count += int(beyond.sum())
        entry.values += x.numel()


def warn(found: Mapping[str, Outside], stacklevel: int) -> None:
    """Says how many values of which site fell outside; the worst first."""
    worst = sorted(
        ((name, o) for name, o in found.items() if o.count),
        key=lambda item: -item[1].count / item[1].values,
    )
    if not worst:
        return
    named = ", ".join(
        f"{name} {o.count:,} of {o.values:,} outside [{o.low:.4g}, {o.high:.4g}]"
        for name, o in worst[:_NAMED]
    )
    more = f" and {len(worst) - _NAMED} more sites" if len(worst) > _NAMED else ""
    warnings.warn(
        f"the input lies far outside the calibrated range; neurons saturate there: {named}{more}"
        "; calibrate with such inputs, or scale them as at calibration",
        RangeWarning,
        stacklevel=stacklevel,
    )
