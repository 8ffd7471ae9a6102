"""A histogram of exact counts whose grid doesn't depend on the order of the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import CalibrationError
from . import histogram_kernels as counting

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Coarsening merges pairs, so more than this many occupied cells leave at least half as many.
_MOST_CELLS = 4096
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
        return self.total < _DENSE * _MOST_CELLS

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
        x = _plain(values)
        worth = None if importance is None else _plain(importance)
        finite = x.isfinite()
        if masked and hidden > -float("inf"):
            finite &= x > hidden
        if not bool(finite.all()):
            bad = x[~finite]
            apart = bad <= hidden
            if not masked or not bool(apart.all()):
                kinds = "NaN" if bool(bad.isnan().any()) else "infinity"
                raise CalibrationError(
                    f"{self.name}: {kinds} among its inputs ({bad.numel()} of {x.numel()} values)"
                    "; check the calibration data and the model's weights"
                )
            self.minus_infinite += int(apart.sum())
            self.hides |= bool(bad.isfinite().any())
            x = x[finite]
            worth = None if worth is None else worth[finite]
        if x.numel() == 0:
            return
        part = Histogram(self.name, relative=self.relative)
        part.low, part.high = float(x.min()), float(x.max())
        part._sum = _exact_sum(x)
        part.level = _ROUNDED if self.relative else _floor_level(part.low, part.high)
        if self.relative:
            part._gather(_ordered(x.double()) >> part.level, worth)
            part._coarsen()
        else:
            # What is known already is no finer, and so won't be the two together.
            part._count(x, worth, self.level if self.total else part.level)
        self.merge(part)

    def _count(self, x: Tensor, worth: Tensor | None, known: int) -> None:
        """Counts on the level that these values need, or on `known` where that is coarser."""
        finest = max(self.level, known)
        span = (self.high - self.low) or abs(self.high) or 1.0
        # Few cells stay in the cache; values far apart from each other need more to be told apart.
        for bits in _GRIDS if x.numel() > _MOST_CELLS else _GRIDS[-1:]:
            level = max(finest, int(np.ceil(np.log2(span))) - bits)
            first, dense, mass = _dense(x, worth, level, self.low, self.high)
            cells = dense.nonzero()[0]
            if len(cells) > _MOST_CELLS or level == finest:
                self.level = level
                self.cells, self.counts = cells + first, dense[cells]
                if mass is not None:
                    self.mass = mass[cells]
                break
        else:
            # Every grid was too coarse to tell.
            self.level = finest
            exact = torch.ldexp(x.double(), torch.tensor(-finest, device=x.device))
            self._gather(torch.floor(exact).to(torch.int64), worth)
        self._coarsen()

    def _gather(self, index: Tensor, worth: Tensor | None) -> None:
        found, place, counts = torch.unique(index, return_inverse=True, return_counts=True)
        self.cells, self.counts = found.cpu().numpy(), counts.cpu().numpy()
        if worth is not None:
            self.mass = torch.bincount(place, worth.double()).cpu().numpy()

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
        while len(self.cells) > _MOST_CELLS:
            self.level += 1
            self.cells, self.counts, self.mass = _neighbours(
                self.cells >> 1, self.counts, self.mass
            )


def _plain(values: Tensor) -> Tensor:
    """The values in a row, as float32 or float64."""
    x = values.detach().flatten()
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def _dense(
    x: Tensor, worth: Tensor | None, level: int, low: float, high: float
) -> tuple[int, Ints, Floats | None]:
    """First cell, counts and sums of worth of every cell from low to high."""
    if x.device.type == "cpu":
        rows = None if worth is None else worth.numpy()
        return counting.dense_counts(x.numpy(), rows, level, low, high)
    return _dense_in_torch(x, worth, level)


def _dense_in_torch(x: Tensor, worth: Tensor | None, level: int) -> tuple[int, Ints, Floats | None]:
    """`_dense` on any device."""
    index = torch.floor(torch.ldexp(x.double(), torch.tensor(-level, device=x.device)))
    cells = index.to(torch.int64)
    first = int(cells.min())
    counts = torch.bincount(cells - first).cpu().numpy()
    mass = None if worth is None else torch.bincount(cells - first, worth.double()).cpu().numpy()
    return first, counts, mass


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


def _exact_sum(x: Tensor) -> Fraction:
    """Sum without rounding: integer sums of the mantissas, one for each exponent."""
    if x.device.type == "cpu":
        return counting.exact_sum(x.numpy())
    return _exact_sum_in_torch(x)


def _exact_sum_in_torch(x: Tensor) -> Fraction:
    """`_exact_sum` on any device."""
    mantissa, exponent = torch.frexp(x.double())
    exponent = exponent.to(torch.int64)
    whole = torch.ldexp(mantissa, torch.tensor(53, device=x.device)).to(torch.int64)
    first = int(exponent.min())
    place = exponent - first
    total = Fraction(0)
    # Two halves of the mantissa, so that 2^35 values can't overflow an int64 sum.
    for part, scale in ((whole >> 27, 27), (whole & ((1 << 27) - 1), 0)):
        sums = torch.zeros(int(place.max()) + 1, dtype=torch.int64, device=x.device)
        sums.index_add_(0, place, part)
        for i, value in enumerate(sums.tolist()):
            if value:
                total += Fraction(value) * Fraction(2) ** (i + first - 53 + scale)
    return total
