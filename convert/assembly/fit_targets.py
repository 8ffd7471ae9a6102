"""What the neuron of a site is fitted to: its function on what calibration saw, and beyond."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from ..calibration.histogram import Histogram
from ..calibration.range_tails import beyond, farther
from ..fitting.jumps import Jumps, find_jumps
from ..fitting.problem import Problem, Solution, scattered
from ..fitting.ramp import ramp_of
from ..sites.find import Site

# This share of a fit's weight goes by how often values occur, the rest by what they do.
_PLAIN = 0.01
# Where f varies by less than this share of its spread, a tail carries nothing to fit.
_FLAT = 1e-9
# Wider gaps between values than this share of the range are bridged by several bins.
_GAP_BINS = 256
# What a value lends of its weight to a gap on one side.
_LENT = 0.25
# What may come with longer inputs has this share of the weight, in so many bins.
_GROWN, _GROWN_BINS = 0.1, 64
# From this K on the error of gated tables on a curve is smaller than that of rare values beyond the
# range. One new value among N is expected there; those of a map rise together, so they are a few.
_FINE, _RARE = 10, 4.0
# Beside few values they weigh no more than this share: the values seen are what is known.
_MOST_RARE = 0.01
# What a neuron gives there is kept within so many times the spread of f.
_FAR = 2.0
# Saturation is noticed from this share of the error of equal levels.
_NOTICED = 0.01

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def jumps_of(site: Site, histogram: Histogram) -> Jumps:
    """Where f jumps on the range that calibration saw, in the type of the site's neuron."""
    wide = site.node.meta["val"].dtype == torch.float64
    ends = (histogram.bounds(cells) for cells in (histogram.cells, histogram.cells + 1))
    points = np.concatenate([histogram.centres, *ends, [histogram.low, histogram.high]])
    points = np.clip(points, histogram.low, histogram.high)
    return find_jumps(site.sampled, points, np.float64 if wide else np.float32)


def problem(
    site: Site,
    histogram: Histogram,
    steps: int,
    *,
    offset: bool = True,
    masked: bool = False,
    jumps: Jumps | None = None,
    gates: int = 0,
    reach: float = 1.0,
) -> Problem:
    """What the neuron of a site is fitted to.

    Cells become bins, and so do the gaps between them. Where f is flat at an end of the
    range, the weight of that tail moves to its inner end: a neuron is flat there too. Where f
    jumps, a bin ends.

    Args:
        site: with its function f.
        histogram: of its inputs.
        steps: K.
        offset: whether y0 may differ from 0.
        masked: whether -inf is an input: the problem is f less its value there, with y0 = 0.
        jumps: of f; none if None.
        gates: how many.
        reach: how many times the largest value seen a longer input may bring.
    """
    jumps = jumps or Jumps(np.empty(0))
    base = site.floor if masked else 0.0
    if offset and not masked and site.masks:
        # What f tends to below the values seen; GELU comes back to 0 there, where few values lie.
        level = _level_before(site.values(histogram.centres))
        base, offset = level or 0.0, level is None
    found = _posed(site, histogram, steps, gates, offset and not masked, jumps.at, reach)
    if not base:
        return replace(found, masked=masked, stairs=jumps.stairs, gates=gates)
    return replace(
        found,
        values=found.values - base,
        masked=masked,
        base=base,
        gates=gates,
        stairs=tuple(stairs.lowered(base) for stairs in jumps.stairs),
    )


def _level_before(values: Floats) -> float | None:
    """f where it is flat before all else; None where it isn't: there no step fires, so it is y0."""
    first, last = _varying_part(values)
    return float(values[0]) if last > first > 0 else None


def _posed(
    site: Site,
    histogram: Histogram,
    steps: int,
    gates: int,
    offset: bool,
    jumps: Floats,
    reach: float,
) -> Problem:
    """The bins of a site's problem, with their weights and f."""
    cells, counts = histogram.cells, histogram.counts / histogram.total
    if histogram.mass.sum() > 0:
        counts = (1 - _PLAIN) * histogram.mass / histogram.mass.sum() + _PLAIN * counts
    one = counts / histogram.counts
    unmoved = counts.copy()
    values = site.values(histogram.centres)
    first, last = _varying_part(values)
    if last > first:
        counts[first] += counts[:first].sum()
        counts[last] += counts[last + 1 :].sum()
        part = slice(first, last + 1)
        cells, counts, values, one = cells[part], counts[part], values[part], one[part]
    last_edge = cells[-1] + 1
    cells, counts, values = _bridged(site, histogram, cells, counts, values, one)
    bins = histogram.bounds(np.append(cells, last_edge)), counts, values
    if reach > 1:
        bins = _grown(site, *bins, reach)

    def posed(edges: Floats, weights: Floats, values: Floats) -> Problem:
        p = weights / weights.sum()
        inside = jumps[(jumps > edges[0]) & (jumps < edges[-1])]
        edges, p, values = _parted(site, inside, edges, p, values)
        return Problem(edges, p, values, steps, site.label, site.name, offset, jumps=inside)

    found = posed(*bins)
    if histogram.relative:
        return found
    if ramp_of(found) is None:
        # The error on a curve is larger than that of saturation, and its fits begin with the range.
        if not gates or steps < _FINE:
            return found
        rare = min(_RARE / histogram.total, _MOST_RARE)
        for top in (False, True):
            # Values that are all alike at an end have a bound there.
            if len(beyond(histogram, unmoved, top=top)[1]):
                bins = _continued(site, *bins, rare, top=top)
        return posed(*bins)
    for top in (False, True):
        levels = (gates + 1) * 2**steps
        bins = _extended(site, levels, *bins, *beyond(histogram, unmoved, top=top))
    return posed(*bins)


def _parted(
    site: Site, jumps: Floats, edges: Floats, weights: Floats, values: Floats
) -> tuple[Floats, Floats, Floats]:
    """The bins with those cut in two in which f jumps; each part has its share of the weight."""
    cuts = np.setdiff1d(jumps, edges)
    if not len(cuts):
        return edges, weights, values
    whole = np.searchsorted(edges, cuts) - 1
    finer = np.union1d(edges, cuts)
    source = np.searchsorted(edges, finer[1:]) - 1
    widths, centres = np.diff(finer), 0.5 * (finer[:-1] + finer[1:])
    parted = np.isin(source, whole) & (weights[source] > 0)
    values = np.where(parted, site.values(centres), values[source])
    return finer, weights[source] * widths / np.diff(edges)[source], values


def _grown(
    site: Site, edges: Floats, weights: Floats, values: Floats, reach: float
) -> tuple[Floats, Floats, Floats]:
    """The bins and some up to `reach` times the largest value, for inputs that grow with a length.

    They share a small part of the weight: a neuron that knows nothing of them may give anything.
    """
    if not edges[-1] > 0:
        return edges, weights, values
    outer = edges[-1] * np.geomspace(1.0, reach, _GROWN_BINS + 1)
    found = site.values(0.5 * (outer[:-1] + outer[1:]))
    if not np.isfinite(found).all():
        return edges, weights, values
    more = np.full(_GROWN_BINS, _GROWN * weights.sum() / _GROWN_BINS)
    return np.append(edges, outer[1:]), np.append(weights, more), np.append(values, found)


def _extended(
    site: Site,
    levels: int,
    edges: Floats,
    weights: Floats,
    values: Floats,
    outer: Floats,
    more: Floats,
) -> tuple[Floats, Floats, Floats]:
    """The bins and those of a tail beyond an end at which f varies.

    A tail is followed for as long as f stays near what it is on the values seen, and saturation
    beyond would cost a share of the error that so many equal levels make.
    """
    top = len(outer) > 1 and outer[1] > outer[0]
    end = -1 if top else 0
    # An end that was cut off, or a tail of nothing.
    if outer[0] != edges[end] or not len(more):
        return edges, weights, values
    centres = 0.5 * (outer[:-1] + outer[1:])
    found = site.values(centres)
    spread = float(np.ptp(values[weights > 0]))
    with np.errstate(invalid="ignore"):
        moved = np.abs(found - values[end])
        known = int(np.argmin(np.append(moved <= spread, False)))
    before = np.append(values[end], found)[:known]
    # What comes after bin i, seen from it: the squared error of a neuron that saturates there.
    ahead = np.triu((found[:known] - before[:, None]) ** 2) @ more[:known]
    worth = ahead > _NOTICED * weights.sum() * (spread / levels) ** 2 / 12
    known = int(worth.nonzero()[0][-1]) + 1 if worth.any() else 0
    if not known:
        return edges, weights, values
    # The end's value was that of the outermost one seen, not of its bin's centre.
    values = values.copy()
    nearest = edges[-2:] if top else edges[:2]
    values[end] = site.values(np.array([nearest.mean()]))[0]
    outer, more, found = outer[1 : known + 1], more[:known], found[:known]
    if top:
        return np.append(edges, outer), np.append(weights, more), np.append(values, found)
    outer, more, found = outer[::-1], more[::-1], found[::-1]
    return np.append(outer, edges), np.append(more, weights), np.append(found, values)


def _continued(
    site: Site, edges: Floats, weights: Floats, values: Floats, rare: float, *, top: bool
) -> tuple[Floats, Floats, Floats]:
    """The bins and those far beyond an end, where f varies and isn't far from the values seen.

    Args:
        site: with its function f.
        edges: of the bins ``[B + 1]``.
        weights: of the bins ``[B]``.
        values: of f ``[B]``.
        rare: the share of inputs that are expected there.
        top: beyond the largest value, else below the smallest.
    """
    outer = farther(edges, weights, top=top)
    found = site.values(0.5 * (outer[:-1] + outer[1:]))
    spread = float(np.ptp(values[weights > 0]))
    with np.errstate(invalid="ignore"):
        moved = np.abs(found - values[-1 if top else 0])
        known = int(np.argmin(np.append(moved <= _FAR * spread, False)))
    if not known or moved[:known].max() < _NOTICED * spread:
        return edges, weights, values
    more = np.full(known, rare * weights.sum() / len(found))
    outer, found = outer[1 : known + 1], found[:known]
    if top:
        return np.append(edges, outer), np.append(weights, more), np.append(values, found)
    outer, found = outer[::-1], found[::-1]
    return np.append(outer, edges), np.append(more, weights), np.append(found, values)


def _bridged(
    site: Site, histogram: Histogram, cells: Ints, weights: Floats, values: Floats, one: Floats
) -> tuple[Ints, Floats, Floats]:
    """First cell, weight and f of bins without gaps, from those of the occupied cells ``[B]``.

    Between two neighbours among N sorted values, a new value falls with an expected probability of
    1 / (N + 1), however far apart they are. So a gap takes a share of the weight of the one value
    (`one`) on either side, and a fit to few values stays near f between them; wide gaps become
    several bins. Among many values a gap weighs nothing.
    """
    gaps = np.flatnonzero(np.diff(cells) > 1)
    begins, ends = cells[gaps] + 1, cells[gaps + 1]
    lent, most = (_LENT, _GAP_BINS) if histogram.sparse else (0.0, 1)
    narrow = max(int(cells[-1] - cells[0]) // most, 1)
    parts = -(-(ends - begins) // narrow)
    places = np.repeat(gaps + 1, parts)
    inside = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    first = np.repeat(begins, parts) + inside * narrow
    last = np.minimum(first + narrow, np.repeat(ends, parts))
    low, high = histogram.bounds(first), histogram.bounds(last)
    between = site.values(low + 0.5 * (high - low))
    each = np.repeat(lent * (one[gaps] + one[gaps + 1]) / parts, parts)
    # Where f leaves what it takes on the values seen, as at a pole, nothing is known.
    spread = float(np.ptp(values))
    with np.errstate(invalid="ignore"):
        known = (between >= values.min() - spread) & (between <= values.max() + spread)
    kept = weights.copy()
    kept[gaps] -= lent * one[gaps]
    kept[gaps + 1] -= lent * one[gaps + 1]
    return (
        np.insert(cells, places, first),
        np.insert(kept, places, np.where(known, each, 0.0)),
        np.insert(values, places, np.where(known, between, 0.0)),
    )


def error(site: Site, histogram: Histogram, solution: Solution) -> tuple[float, float]:
    """Mean squared error of a fit by how often values occur, and the variance of f there."""
    p = histogram.counts / histogram.total
    ends = (histogram.bounds(cells) for cells in (histogram.cells, histogram.cells + 1))
    x = scattered(*(np.clip(end, histogram.low, histogram.high) for end in ends))
    exact = site.values(x)
    gap = solution(x) - exact
    return float(p @ gap**2), float(p @ (exact - p @ exact) ** 2)


def _varying_part(values: Floats) -> tuple[int, int]:
    """First and last bin between which f varies, with one flat bin kept on either side."""
    if not np.isfinite(values).all():
        return 0, len(values) - 1
    spread = float(np.ptp(values))
    left = np.flatnonzero(np.abs(values - values[0]) > _FLAT * spread)
    right = np.flatnonzero(np.abs(values - values[-1]) > _FLAT * spread)
    if not len(left) or not len(right):
        return 0, len(values) - 1
    return max(int(left[0]) - 1, 0), min(int(right[-1]) + 1, len(values) - 1)
