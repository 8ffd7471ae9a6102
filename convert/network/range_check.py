"""A warning for inputs far outside the calibrated range, and which sites it drives outside."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..calibration.histogram import HIDDEN
from ..errors import RangeWarning

# An input may exceed its range on either side by this share of its width without a word.
_MARGIN = 0.25
Range = tuple[float, float] | None
Pairs = Sequence[tuple[Tensor, float, float]]
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


def checked(leaves: Iterable[Any], ranges: Iterable[Range]) -> Pairs:
    """The floating-point inputs of a call that are checked, with the bounds that they must keep.

    Args:
        leaves: the flat inputs of a call.
        ranges: lowest and highest calibrated value of each; None for one that isn't checked.
    """
    found = []
    for leaf, limits in zip(leaves, ranges, strict=False):
        if limits is None or not isinstance(leaf, Tensor) or not leaf.numel() or leaf.is_meta:
            continue
        if leaf.is_cuda and torch.cuda.is_current_stream_capturing():
            # Nothing can be read while a CUDA graph is recorded.
            continue
        margin = _MARGIN * (limits[1] - limits[0])
        found.append((leaf.detach(), limits[0] - margin, limits[1] + margin))
    return found


def inputs_outside(pairs: Pairs) -> bool:
    """Whether an input lies clearly outside its calibrated range; waits for a GPU.

    Args:
        pairs: from `checked`.
    """
    for leaf, least, most in pairs:
        bounds = torch.aminmax(leaf)
        if leaf.is_cpu:
            low, high = float(bounds[0]), float(bounds[1])
        else:
            low, high = torch.stack(bounds).tolist()
        # NaN compares false: it is no matter of range.
        if low < least or high > most:
            return True
    return False


def outside_flag(pairs: Pairs) -> Tensor:
    """The same as a tensor on the device of the first input; nothing waits.

    Args:
        pairs: from `checked`; at least one.
    """
    flag: Tensor | None = None
    for leaf, least, most in pairs:
        low, high = torch.aminmax(leaf)
        # As in `inputs_outside`, where a number of any type is compared as float64.
        found = ((low.double() < least) | (high.double() > most)).to(pairs[0][0].device)
        flag = found if flag is None else flag | found
    assert flag is not None
    return flag


def warn_late(stacklevel: int) -> None:
    """Says that the inputs of an earlier call lay outside."""
    warnings.warn(
        "an input of an earlier call lay far outside the calibrated range (on a GPU that is found "
        "after the call); neurons saturate there; calibrate with such inputs, or scale them as at "
        "calibration",
        RangeWarning,
        stacklevel=stacklevel,
    )


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
