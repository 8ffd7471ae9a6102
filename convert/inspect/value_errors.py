"""Sums over the values of a site: of two networks beside each other, and where inputs lay."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..calibration.histogram import Histogram

Floats = npt.NDArray[np.float64]

# Parts of the calibrated range: so many of equal width, and so many of equal counts.
_BINS = 64
# Inputs are rare where these images have so many times what calibration held in proportion.
_RARE = 4.0
# What these images may have more of before the error there is put down to rarity.
_MORE = 2.0


class Pairs:
    """Sums over pairs of values: variances, correlation and error.

    Sums are taken from the first values' means on, so that no digits are lost.
    """

    def __init__(self) -> None:
        self.count = 0
        self.lost = False
        self.squared_error = 0.0
        self._from: tuple[float, float] | None = None
        # Of a, b, a a, b b and a b.
        self._sums = np.zeros(5)

    def add(self, exact: Tensor, found: Tensor) -> None:
        """Adds values ``[n]``, float64; the exact ones are finite."""
        if not len(exact):
            return
        self.count += len(exact)
        if not bool(found.isfinite().all()):
            self.lost = True
            return
        self.squared_error += float((found - exact).square().sum())
        if self._from is None:
            self._from = float(exact.mean()), float(found.mean())
        a, b = exact - self._from[0], found - self._from[1]
        sums = (a.sum(), b.sum(), a.dot(a), b.dot(b), a.dot(b))
        self._sums += np.array([float(s) for s in sums])

    @property
    def variance(self) -> float:
        """Of the exact values."""
        a, _, aa, _, _ = self._sums / max(self.count, 1)
        return max(float(aa - a * a), 0.0)

    @property
    def mean_square(self) -> float:
        """Of the exact values."""
        if self._from is None:
            return 0.0
        mean = self._from[0] + self._sums[0] / self.count
        return self.variance + float(mean) ** 2

    @property
    def error(self) -> float:
        """Mean squared error; infinite where a value is lost."""
        return math.inf if self.lost else self.squared_error / max(self.count, 1)

    @property
    def relative_error(self) -> float:
        """Root mean square of the error over the standard deviation of the exact values."""
        if self.error == 0:
            return 0.0
        return math.sqrt(self.error / self.variance) if self.variance > 0 else math.inf

    @property
    def correlation(self) -> float | None:
        """Pearson's coefficient; None where a side doesn't vary, or values are lost."""
        if self.lost or not self.count:
            return None
        a, b, aa, bb, ab = self._sums / self.count
        va, vb = aa - a * a, bb - b * b
        # What rounding leaves of values that are all alike is no variance.
        if va <= 1e-20 * (1 + aa) or vb <= 1e-20 * (1 + bb):
            return None
        return float(np.clip((ab - a * b) / math.sqrt(va * vb), -1.0, 1.0))


class InputParts:
    """Where the inputs of a site lay, and how much error was made there.

    Args:
        low, high: the calibrated range.
        histogram: what calibration held; None if that isn't known.
    """

    def __init__(self, low: float, high: float, histogram: Histogram | None) -> None:
        self.low, self.high = low, high
        self.lowest, self.highest = math.inf, -math.inf
        self.edges, self.held = _parts_of(histogram)
        # Of the parts inside the range, and of what is outside.
        self.counts, self.errors = np.zeros(len(self.held)), np.zeros(len(self.held))
        self.outside = self.outside_error = 0.0
        self.calibrated = int(self.held.sum())

    def beyond(self, x: Tensor, eps: float) -> Tensor:
        """Which of some inputs lie outside the range; rounding by `eps` isn't outside."""
        slack = eps * max(abs(self.low), abs(self.high))
        return (x < self.low - slack) | (x > self.high + slack)

    def add(self, x: Tensor, squared_error: Tensor, beyond: Tensor) -> None:
        """Adds inputs ``[n]`` and the squared errors made on them, float64."""
        if not len(x):
            return
        self.lowest, self.highest = (
            min(self.lowest, float(x.min())),
            max(self.highest, float(x.max())),
        )
        self.outside += int(beyond.sum())
        self.outside_error += float(squared_error[beyond].sum())
        inside, errors = x[~beyond], squared_error[~beyond]
        bins = len(self.held)
        edges = torch.from_numpy(self.edges).to(x.device)
        place = torch.bucketize(inside.contiguous(), edges, right=True)
        self.counts += torch.bincount(place, minlength=bins).cpu().numpy()
        self.errors += torch.bincount(place, errors, minlength=bins).cpu().numpy()

    @property
    def count(self) -> float:
        """Of all inputs."""
        return float(self.outside + self.counts.sum())

    @property
    def outside_share(self) -> float:
        """Share of the inputs outside the range."""
        return self.outside / max(self.count, 1)

    def rare(self) -> tuple[float, float] | None:
        """Shares of the inputs that are rare at calibration, and of calibration's values there."""
        if not self.calibrated:
            return None
        rare = self.counts > _RARE * self._usual()
        return (
            float(self.counts[rare].sum() / max(self.count, 1)),
            float(self.held[rare].sum() / self.calibrated),
        )

    def shares(self) -> tuple[float, float, float]:
        """Shares of the squared error: outside the range, of rare inputs, and the rest."""
        total = self.outside_error + float(self.errors.sum())
        if not total > 0 or not math.isfinite(total):
            return 0.0, 0.0, 1.0
        rare = 0.0
        if self.calibrated:
            usual = np.minimum(self.counts, _MORE * self._usual())
            over = 1 - usual / np.maximum(self.counts, 1)
            rare = float((over * self.errors).sum())
        outside = self.outside_error / total
        return outside, rare / total, 1 - outside - rare / total

    def _usual(self) -> Floats:
        """How many inputs each part would have, were these images as those of calibration.

        A part that calibration left empty might have held one.
        """
        return np.asarray((self.held + 1) * self.count / (self.calibrated + 1))


def _parts_of(histogram: Histogram | None) -> tuple[Floats, Floats]:
    """Edges ``[B - 1]`` between the parts of a calibrated range, and the values held in each."""
    if histogram is None or not histogram.total:
        return np.empty(0), np.zeros(1)
    cells, counts = histogram.cells, histogram.counts
    even = np.linspace(float(cells[0]), float(cells[-1]) + 1, _BINS + 1).astype(np.int64)
    reached = np.searchsorted(np.cumsum(counts), np.arange(1, _BINS) / _BINS * counts.sum())
    edges = np.unique(np.concatenate([even[1:-1], cells[reached] + 1]))
    held = np.bincount(np.searchsorted(edges, cells, side="right"), counts, len(edges) + 1)
    return histogram.bounds(edges), held.astype(np.float64)
