"""A histogram of exact counts whose grid doesn't depend on the order of the data."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..common.devices import apart
from ..errors import CalibrationError
from . import device_counts
from . import histogram_kernels as counting

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Coarsening merges pairs, so more than this many occupied cells leave at least half as many.
MOST_CELLS = 4096
# Sizes of the dense grids on which values are counted, in bits.
_GRIDS = (14, 17, 20)
# With fewer values than this for each cell that there could be, gaps say little.
_DENSE = 16
# A cell is never finer than this fraction of the largest magnitude: int64 indices stay exact.
_FINEST = 40
# What a mask writes in place of -inf: the least number of a type, -1e20. Among such values a grid
# has no cells for the others.
HIDDEN = -(2.0**_FINEST)
# Lowest bits of a double that no relative cell tells apart.
_ROUNDED = 12
# The bits of an infinite double.
_INFINITE = 0x7FF << 52


@dataclass
class Histogram:
    """Counts of values on cells ``[i 2^e, (i+1) 2^e)``.

    The level e is the smallest at which at most 4,096 cells are occupied and none is finer than
    2^-40 of the largest magnitude. Both grow with the data alone, so neither the order of the
    values nor how they were split in parts changes the result.

    Relative cells grow with the magnitude instead: doubles that agree in sign, exponent and all
    but the last e bits of the fraction share a cell. A range of many decades is resolved
    throughout.

    Args:
        name: the site, for messages.
        level: e.
        cells: indices i of the occupied cells, int64, increasing.
        counts: values in each, int64.
        low, high: exact minimum and maximum.
        minus_infinite: values of -inf, or as good as that, which masks make and which lie in no
            cell.
        mass: sum of the values' importance in each cell, float64; empty where all count alike.
        relative: whether cells grow with the magnitude.
        hides: whether a finite number counted as -inf.
    """

    name: str = "values"
    level: int = -1074
    cells: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    counts: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    low: float = float("inf")
    high: float = float("-inf")
    minus_infinite: int = 0
    mass: Floats = field(default_factory=lambda: np.empty(0))
    _sum: Fraction = Fraction(0)
    relative: bool = False
    hides: bool = False

    @property
    def total(self) -> int:
        """Number of finite values."""
        return int(self.counts.sum())

    @property
    def sparse(self) -> bool:
        """Whether there are too few values to tell the gaps between them from chance."""
        return self.total < _DENSE * MOST_CELLS

    @property
    def mean(self) -> float:
        """Exact mean, rounded once."""
        return float(self._sum / self.total) if self.total else float("nan")

    @property
    def width(self) -> float:
        """Width of a cell that isn't relative."""
        return 2.0**self.level

    def bounds(self, cells: Ints) -> Floats:
        """Lower ends of cells of these indices."""
        if not self.relative:
            return np.asarray(cells * self.width, np.float64)
        bits = np.minimum(np.abs(cells), _INFINITE >> self.level) << self.level
        sizes: Floats = np.minimum(bits, _INFINITE - 1).view(np.float64)
        return np.where(cells < 0, -sizes, sizes)

    @property
    def centres(self) -> Floats:
        """Centres of the occupied cells, kept inside [low, high]."""
        if not self.relative:
            return np.clip((self.cells + 0.5) * self.width, self.low, self.high)
        ends = (self.bounds(cells) for cells in (self.cells, self.cells + 1))
        low, high = (np.clip(end, self.low, self.high) for end in ends)
        return low + 0.5 * (high - low)

    def add(
        self,
        values: Tensor,
        *,
        masked: bool = False,
        hidden: float = -float("inf"),
        importance: Tensor | None = None,
    ) -> None:
        """Counts a tensor of any shape and floating dtype.

        Args:
            values: what to count.
            masked: -inf is allowed, and counted apart.
            hidden: with `masked`, what is no larger counts as -inf.
            importance: of each value, of the same shape, >= 0; given always or never.

        Raises:
            CalibrationError: for NaN or infinity.
        """
        if apart(values.device):
            told = self.adding(values, masked=masked, hidden=hidden, importance=importance)
            device_counts.finish([told])
            return
        found = self.counted(values, masked=masked, hidden=hidden, importance=importance)
        self.merge(found.part)

    def counted(
        self,
        values: Tensor,
        *,
        masked: bool = False,
        hidden: float = -float("inf"),
        importance: Tensor | None = None,
        finest: int | None = None,
    ) -> Counted:
        """What `add` would merge of a tensor on the CPU; nothing is added.

        Args:
            values, masked, hidden, importance: as for `add`.
            finest: the level to count on at least; None for what this histogram and the values
                need.
        """
        x = _plain(values)
        worth = None if importance is None else _plain(importance)
        part = Histogram(self.name, relative=self.relative)
        finite = x.isfinite()
        if masked and hidden > -float("inf"):
            finite &= x > hidden
        if not bool(finite.all()):
            bad = x[~finite]
            below = bad <= hidden
            if not masked or not bool(below.all()):
                self._refuse(bool(bad.isnan().any()), bad.numel(), x.numel())
            part.minus_infinite = int(below.sum())
            part.hides = bool(bad.isfinite().any())
            x = x[finite]
            worth = None if worth is None else worth[finite]
        if x.numel() == 0:
            return Counted(part, part.level)
        part.low, part.high = float(x.min()), float(x.max())
        part._sum = counting.exact_sum(x.numpy())
        level = self.finest(part.low, part.high) if finest is None else finest
        if self.relative:
            part.level = level
            part._gather(_ordered(x.double()) >> part.level, worth)
            part._coarsen()
        else:
            part.level = _floor_level(part.low, part.high)
            part._count(x, worth, level)
        return Counted(part, level)

    def finest(self, low: float, high: float) -> int:
        """The finest level on which more values are counted.

        What is known already is no finer, and so won't be the two together.

        Args:
            low, high: the least and the greatest of the values.
        """
        if self.relative:
            return _ROUNDED
        own = _floor_level(low, high)
        return max(own, self.level) if self.total else own

    def adding(
        self,
        values: Tensor,
        *,
        masked: bool = False,
        hidden: float = -float("inf"),
        importance: Tensor | None = None,
    ) -> Generator[device_counts.Asked, device_counts.Told, None]:
        """As `add`, for values on a GPU: a generator for `device_counts.finish`."""
        found = yield from self.counting(
            values, masked=masked, hidden=hidden, importance=importance
        )
        self.merge(found.part)

    def counting(
        self,
        values: Tensor,
        *,
        masked: bool = False,
        hidden: float = -float("inf"),
        importance: Tensor | None = None,
        finest: int | None = None,
    ) -> Generator[device_counts.Asked, device_counts.Told, Counted]:
        """As `counted`, for values on a GPU: a generator for `device_counts.finish`."""
        x = _plain(values)
        worth = None if importance is None else _plain(importance)
        part = Histogram(self.name, relative=self.relative)
        below = None
        if masked and hidden > -float("inf"):
            below = x.isfinite() & (x <= hidden)
            x = torch.where(below, -torch.inf, x)
        seen = yield from device_counts.facts(x, below)
        part.hides = seen.hidden > 0
        if seen.wrong:
            if not masked or seen.minus_infinite < seen.wrong:
                self._refuse(seen.nan > 0, seen.wrong, seen.size)
            part.minus_infinite = seen.minus_infinite
        if seen.size == seen.wrong:
            return Counted(part, part.level)
        part.low, part.high, part._sum = seen.low, seen.high, seen.total
        coarser = self.finest(part.low, part.high) if finest is None else finest
        if self.relative:
            part.level = coarser
            yield from part._gather_there(_ordered(x.double()) >> coarser, x, worth)
        else:
            for level in part._levels(seen.size - seen.wrong, coarser):
                found = yield from device_counts.dense(x, worth, level, part.low, part.high)
                if part._take(level, coarser, *found):
                    break
            else:
                part.level = coarser
                yield from part._gather_there(_cells(x, coarser), x, worth)
        part._coarsen()
        return Counted(part, coarser)

    def _gather_there(
        self, index: Tensor, x: Tensor, worth: Tensor | None
    ) -> Generator[device_counts.Asked, device_counts.Told, None]:
        found = yield from device_counts.gathered(index, x.isfinite(), worth)
        self.cells, self.counts = found[:2]
        if found[2] is not None:
            self.mass = found[2]

    def _refuse(self, nan: bool, wrong: int, size: int) -> None:
        raise CalibrationError(
            f"{self.name}: {'NaN' if nan else 'infinity'} among its inputs ({wrong} of {size} "
            "values); check the calibration data and the model's weights"
        )

    def _levels(self, size: int, finest: int) -> Iterator[int]:
        """Levels to count on, one after the other until one tells enough cells apart.

        Few cells stay in the cache; values far apart from each other need more to be told apart.
        """
        span = (self.high - self.low) or abs(self.high) or 1.0
        for bits in _GRIDS if size > MOST_CELLS else _GRIDS[-1:]:
            yield max(finest, int(np.ceil(np.log2(span))) - bits)

    def _take(self, level: int, finest: int, first: int, dense: Ints, mass: Floats | None) -> bool:
        """Keeps the counts of every cell from the first one, if they tell enough cells apart."""
        cells = dense.nonzero()[0]
        if len(cells) <= MOST_CELLS and level != finest:
            return False
        self.level = level
        self.cells, self.counts = cells + first, dense[cells]
        if mass is not None:
            self.mass = mass[cells]
        return True

    def _count(self, x: Tensor, worth: Tensor | None, known: int) -> None:
        """Counts on the level that these values need, or on `known` where that is coarser."""
        finest = max(self.level, known)
        rows = None if worth is None else worth.numpy()
        for level in self._levels(x.numel(), finest):
            found = counting.dense_counts(x.numpy(), rows, level, self.low, self.high)
            if self._take(level, finest, *found):
                break
        else:
            # Every grid was too coarse to tell.
            self.level = finest
            self._gather(_cells(x, finest), worth)
        self._coarsen()

    def _gather(self, index: Tensor, worth: Tensor | None) -> None:
        found, place, counts = torch.unique(index, return_inverse=True, return_counts=True)
        self.cells, self.counts = found.numpy(), counts.numpy()
        if worth is not None:
            self.mass = torch.bincount(place, worth.double()).numpy()

    def merge(self, other: Histogram) -> None:
        """Adds the counts of another part of the data, exactly."""
        self.minus_infinite += other.minus_infinite
        self.hides |= other.hides
        if not other.total:
            return
        if not self.total:
            self.level = other.level
        low, high = min(self.low, other.low), max(self.high, other.high)
        lowest = _ROUNDED if self.relative else _floor_level(low, high)
        level = max(self.level, other.level, lowest)
        cells = np.concatenate([_shift(h.cells, level - h.level) for h in (self, other)])
        counts, mass = (
            np.concatenate([getattr(h, name) for h in (self, other)]) for name in ("counts", "mass")
        )
        self.low, self.high, self.level = low, high, level
        self._sum += other._sum
        self.cells, self.counts, self.mass = _grouped(cells, counts, mass)
        self._coarsen()

    def _coarsen(self) -> None:
        while len(self.cells) > MOST_CELLS:
            self.level += 1
            self.cells, self.counts, self.mass = _neighbours(
                self.cells >> 1, self.counts, self.mass
            )


class Counted(NamedTuple):
    """Counts of some values, and the finest level on which they were counted."""

    part: Histogram
    finest: int


def _plain(values: Tensor) -> Tensor:
    """The values in a row, as float32 or float64."""
    x = values.detach().flatten()
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def _cells(x: Tensor, level: int) -> Tensor:
    """The cell of every value, int64; of one that isn't finite any."""
    return torch.floor(torch.ldexp(x.double(), torch.full((), -level, device=x.device))).long()


def _ordered(x: Tensor) -> Tensor:
    """Doubles as int64 in the same order."""
    bits = (x.abs() + 0.0).view(torch.int64)
    return torch.where(x < 0, ~bits, bits)


def _floor_level(low: float, high: float) -> int:
    largest = max(abs(low), abs(high))
    return int(np.frexp(largest)[1]) - _FINEST if largest else -1074 + _FINEST


def _shift(cells: Ints, levels: int) -> Ints:
    return cells >> min(levels, 63)


def _grouped(cells: Ints, counts: Ints, mass: Floats) -> tuple[Ints, Ints, Floats]:
    unique, place = np.unique(cells, return_inverse=True)
    sums = np.zeros(len(unique), np.int64)
    np.add.at(sums, place, counts)
    if len(mass):
        mass = np.bincount(place, mass, len(unique)).astype(np.float64)
    return unique, sums, mass


def _neighbours(cells: Ints, counts: Ints, mass: Floats) -> tuple[Ints, Ints, Floats]:
    """As `_grouped`, for cells in order."""
    begins = np.flatnonzero(np.diff(cells, prepend=cells[0] - 1))
    mass = np.add.reduceat(mass, begins) if len(mass) else mass
    return cells[begins], np.add.reduceat(counts, begins), mass
