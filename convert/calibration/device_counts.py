"""Histograms of values on a GPU: all sites together wait for it a few times, not each by itself.

Counting needs numbers that only the values tell: first their range, then how many cells are
occupied. So the counting of a tensor is a generator. It yields tensors that it must read, and goes
on with what they hold. `finish` takes many such generators through their steps side by side and
reads what all of them ask for in one copy.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Asked = list[Tensor]
Told = list[npt.NDArray[np.generic]]

# Exponents of doubles lie between these.
_LEAST, _EXPONENTS = -1100, 2200
_HALF = 27


@dataclass(frozen=True)
class Facts:
    """What is known of some values first.

    Args:
        size: how many there are.
        wrong: how many of them are NaN or infinite.
        minus_infinite: how many of those are -inf.
        nan: how many of those are NaN.
        hidden: how many stand for -inf.
        low, high: the least and the greatest of the others.
        total: their exact sum.
    """

    size: int
    wrong: int
    minus_infinite: int
    nan: int
    hidden: int
    low: float
    high: float
    total: Fraction


def facts(x: Tensor, hidden: Tensor | None = None) -> Generator[Asked, Told, Facts]:
    """What must be known of float32 or float64 values ``[n]`` before they are counted.

    Args:
        x: the values.
        hidden: which of them stand for -inf, and are -inf by now; None for none.
    """
    size = x.numel()
    covered = (
        torch.zeros((), dtype=torch.int64, device=x.device) if hidden is None else hidden.sum()
    )
    numbers, ends, sums, below = yield [*_range(x), _mantissa_sums(x), covered]
    wrong, minus, nan = (int(number) for number in numbers)
    low, high = (float(end) for end in ends)
    total = Fraction(0)
    for place in np.flatnonzero(sums.any(0)).tolist():
        whole = (int(sums[0, place]) << _HALF) + int(sums[1, place])
        total += whole * Fraction(2) ** (place + _LEAST - 53)
    return Facts(size, wrong, minus, nan, int(below), low, high, total)


def _range(x: Tensor) -> Asked:
    finite = x.isfinite()
    numbers = torch.stack([(~finite).sum(), (x == -torch.inf).sum(), x.isnan().sum()])
    if not x.numel():
        return [numbers, torch.zeros(2, dtype=torch.float64, device=x.device)]
    low, high = (torch.where(finite, x, end) for end in (torch.inf, -torch.inf))
    return [numbers, torch.stack([low.amin(), high.amax()]).double()]


def _mantissa_sums(x: Tensor) -> Tensor:
    """Sums of both halves of the mantissas by exponent ``[2, exponents]``.

    Two halves, so that 2^35 values can't overflow an int64 sum.
    """
    mantissa, exponent = torch.frexp(torch.where(x.isfinite(), x, 0.0).double())
    place = exponent.long() - _LEAST
    whole = torch.ldexp(mantissa, torch.full((), 53, device=x.device)).long()
    sums = torch.zeros(2, _EXPONENTS, dtype=torch.int64, device=x.device)
    sums[0].index_add_(0, place, whole >> _HALF)
    sums[1].index_add_(0, place, whole & ((1 << _HALF) - 1))
    return sums


def dense(
    x: Tensor, worth: Tensor | None, level: int, low: float, high: float
) -> Generator[Asked, Told, tuple[int, Ints, Floats | None]]:
    """As `histogram_kernels.dense_counts`; values that aren't finite are left out."""
    scale, again = 2.0 ** (-level // 2), 2.0 ** (-level - -level // 2)
    first, last = (int(np.floor(end * scale * again)) for end in (low, high))
    told = yield _dense(x, worth, (scale, again), first, last - first + 1)
    counts = told[0].astype(np.int64)
    return first, counts, None if worth is None else told[1].astype(np.float64)


def _dense(
    x: Tensor, worth: Tensor | None, scales: tuple[float, float], first: int, cells: int
) -> Asked:
    finite = x.isfinite()
    index = torch.floor(torch.where(finite, x, 0.0).double() * scales[0] * scales[1]).long()
    return _sums(torch.where(finite, index - first, 0), finite, worth, cells)


def _sums(place: Tensor, counted: Tensor, worth: Tensor | None, cells: int) -> Asked:
    """Counts, and sums of worth, by place."""
    counts = torch.zeros(cells, dtype=torch.int64, device=place.device)
    asked = [counts.index_add_(0, place, counted.long())]
    if worth is not None:
        mass = torch.zeros(cells, dtype=torch.float64, device=place.device)
        asked.append(mass.index_add_(0, place, torch.where(counted, worth.double(), 0.0)))
    return asked


def gathered(
    index: Tensor, counted: Tensor, worth: Tensor | None
) -> Generator[Asked, Told, tuple[Ints, Ints, Floats | None]]:
    """The different ones of whole numbers ``[n]``, how often each occurs, and sums of worth.

    Args:
        index: the numbers.
        counted: which of them there are, bool ``[n]``.
        worth: summed beside the count ``[n]``; None for nothing.
    """
    different, cells, sums = _different(index, counted, worth)
    ((number,),) = yield [different]
    told = yield [part[: int(number)] for part in (cells, *sums)]
    mass = None if worth is None else told[2].astype(np.float64)
    return told[0].astype(np.int64), told[1].astype(np.int64), mass


def _different(
    index: Tensor, counted: Tensor, worth: Tensor | None
) -> tuple[Tensor, Tensor, Asked]:
    """How many different numbers are counted ``[1]``, and what belongs to each, in as much memory
    as there are numbers at all.
    """
    # Those that aren't counted come last.
    ordered, order = torch.where(counted, index, torch.iinfo(torch.int64).max).sort(stable=True)
    new = torch.ones_like(ordered)
    new[1:] = ordered[1:] != ordered[:-1]
    place = new.cumsum(0) - 1
    inside = counted[order]
    different = torch.where(inside, place + 1, 0).amax().view(1)
    cells = torch.zeros_like(ordered).scatter_(0, place, ordered)
    own = torch.empty_like(place).scatter_(0, order, place)
    return different, cells, _sums(own, counted, worth, len(index))


def finish(generators: Iterable[Generator[Asked, Told, None]]) -> None:
    """Takes generators through their steps side by side; waits for the GPU once a step."""
    waiting = list(generators)
    told: list[Told | None] = [None] * len(waiting)
    while waiting:
        asked = [_asked(*pair) for pair in zip(waiting, told, strict=True)]
        going = [(one, tensors) for one, tensors in zip(waiting, asked, strict=True) if tensors]
        read = iter(_read([tensor for _, tensors in going for tensor in tensors]))
        waiting = [one for one, _ in going]
        told = [[next(read) for _ in tensors] for _, tensors in going]


def _asked(generator: Generator[Asked, Told, None], told: Told | None) -> Asked:
    """What a generator asks for next; nothing at its end."""
    try:
        return next(generator) if told is None else generator.send(told)
    except StopIteration:
        return []


def _read(tensors: Asked) -> Told:
    """What tensors of 64 bits hold, in one copy for each device."""
    found: dict[int, npt.NDArray[np.generic]] = {}
    for device in {t.device for t in tensors}:
        there = [i for i, t in enumerate(tensors) if t.device == device]
        rows = [tensors[i].contiguous().view(-1).view(torch.int64) for i in there]
        parts = torch.cat(rows).cpu().split([row.numel() for row in rows])
        for i, part in zip(there, parts, strict=True):
            found[i] = part.view(tensors[i].dtype).view(tensors[i].shape).numpy()
    return [found[i] for i in range(len(tensors))]
