"""What calibration has not seen: values beyond the largest that it has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .histogram import Histogram

# So many of the most extreme values tell how a tail goes on.
_EXTREME = 32
# Tails are followed for so many times the mean excess of these values, in so many bins at most.
_FOLLOWED = 10.0
_BINS = 256

# Where no tail is known, inputs may go so many times as far beyond the end as that is from their
# mean, in so many bins.
_FARTHER, _FARTHER_BINS = 2.0, 128

Floats = npt.NDArray[np.float64]


def beyond(histogram: Histogram, worth: Floats, *, top: bool) -> tuple[Floats, Floats]:
    """Edges ``[n + 1]`` outwards from the last cell, and the expected weight of the bins between.

    The excess of values over a high threshold falls off exponentially, or faster, for whatever is
    no heavy-tailed distribution (Pickands 1975): the most extreme values give its mean. Where they
    are all alike, as at a bound, there is no tail.

    Args:
        histogram: of cells of one width.
        worth: weight of all values in each cell ``[B]``.
        top: beyond the largest value, else below the smallest.
    """
    order = slice(None, None, -1) if top else slice(None)
    counts, worth = histogram.counts[order], worth[order]
    centres, cells = histogram.centres[order], histogram.cells[order]
    last = min(int(np.searchsorted(np.cumsum(counts), _EXTREME)), len(counts) - 1)
    part = slice(0, last + 1)
    many = float(counts[part].sum())
    sign = 1.0 if top else -1.0
    inner = float(histogram.bounds(cells[last : last + 1] + (not top))[0])
    end = float(histogram.bounds(cells[:1] + top)[0])
    excess = float(counts[part] @ (sign * (centres[part] - inner))) / many
    spread = float(np.ptp(centres[part]))
    if spread == 0:
        return np.array([end]), np.empty(0)
    width = histogram.width
    width *= max(int(np.ceil(_FOLLOWED * excess / (_BINS * width))), 1)
    edges: Floats = end + sign * width * np.arange(int(np.ceil(_FOLLOWED * excess / width)) + 1.0)
    rest: Floats = np.exp(-sign * (edges - inner) / excess)
    return edges, np.asarray(-float(worth[part].sum()) * np.diff(rest), np.float64)


def farther(edges: Floats, weights: Floats, *, top: bool) -> Floats:
    """Edges ``[n + 1]`` outwards from an end of the range, far beyond it.

    Args:
        edges: of the bins of the range ``[B + 1]``.
        weights: of these bins ``[B]``.
        top: beyond the largest value, else below the smallest.
    """
    mean = float(weights @ (0.5 * (edges[:-1] + edges[1:]))) / float(weights.sum())
    end = float(edges[-1 if top else 0])
    grid: Floats = np.linspace(0.0, _FARTHER * (end - mean), _FARTHER_BINS + 1)
    return end + grid
