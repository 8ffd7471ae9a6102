"""Chooses K for every site: the fewest time steps in total for an error of the outputs.

The fits of every K tell what a site adds to the outputs' error to first order: the error of the
fit, weighted with the squared gradients that calibration saw. Steps go one after the other to where
they take most of that away; how many are needed is measured on calibration images with all sites
spiking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..common.progress import Progress
from ..errors import CalibrationError, InputError
from ..network.settings import Automatic
from ..sites.find import Site
from .calibrated import Calibrated, SiteK
from .side_by_side import Sample
from .site_fits import SiteFits

# No site gets more steps.
_MOST = 16


@dataclass(frozen=True)
class Choice:
    """K of every site.

    Args:
        steps: by the name of the site.
        note: what was chosen and why, for the report.
    """

    steps: SiteK
    note: str


def choose(fits: SiteFits, wanted: Automatic, *, progress: bool = False) -> Choice:
    """The steps of every site.

    Args:
        fits: of the network; every K that is compared is fitted there.
        wanted: the largest error, which takes calibration images, or the number of steps.
        progress: shows a bar on stderr.

    Raises:
        InputError: if the budget is less than one step a site.
        CalibrationError: if an error has to be measured and there are no images.
    """
    source = fits.source
    _check_budget(source, wanted)
    compared = list(_compared(source))
    fits.fit(compared)
    effects: dict[str, dict[int, float]] = {site.name: {} for site in source.sites}
    for site, k in compared:
        effects[site.name][k] = _effect(fits, site, k)
    path = _path(effects)
    if wanted.budget is not None:
        last_within = [k for k in path if sum(k.values()) <= wanted.budget][-1]
        return Choice(last_within, _note(last_within, f"budget {wanted.budget}"))
    loss, images = _loss(fits)
    found, last = _first_within(path, loss, wanted.max_loss, progress)
    reason = f"max_loss {wanted.max_loss:g}: {last:.3g} on {images} calibration images"
    if last > wanted.max_loss:
        reason += ", which more steps don't reach"
    return Choice(found, _note(found, reason))


def _check_budget(source: Calibrated, wanted: Automatic) -> None:
    least = sum(source.fixed.get(site.name, 1) for site in source.sites)
    if wanted.budget is not None and wanted.budget < least:
        raise InputError(
            f"budget={wanted.budget} is less than the {least} steps that {len(source.sites)} sites "
            "need at least; give more"
        )


def _compared(source: Calibrated) -> Iterator[tuple[Site, int]]:
    """Every site with every K that it may have, site by site."""
    for site in source.sites:
        fixed = source.fixed.get(site.name)
        for k in range(1, _MOST + 1) if fixed is None else (fixed,):
            yield site, k


def _loss(fits: SiteFits) -> tuple[Callable[[SiteK], float], int]:
    """The relative squared error of the outputs as a function of K, and on how many images."""
    source = fits.source
    if source.batches is None:
        raise CalibrationError(
            "max_loss is measured on calibration images; give calibration data, or a budget"
        )
    exact = {site.module: site.function for site in source.sites}
    captured, device = source.captured, source.device
    sample = Sample(captured.graph_module, exact, captured.signature, source.batches, device)

    def loss(steps: SiteK) -> float:
        neurons = {
            site.module: fits.neuron(site, steps[site.name]).to(device) for site in source.sites
        }
        return sample.error(neurons) ** 2

    return loss, sample.images


def _first_within(
    path: Sequence[SiteK], loss: Callable[[SiteK], float], most: float, progress: bool
) -> tuple[SiteK, float]:
    """The first allocation of a path whose loss is small enough, or the last, and its loss."""
    low, high, measured = 0, len(path) - 1, {}
    with Progress[None](title="choose steps", shown=progress) as bar:
        while low < high:
            middle = (low + high) // 2
            measured[middle] = loss(path[middle])
            low, high = (low, middle) if measured[middle] <= most else (middle + 1, high)
            bar.update()
    return path[high], measured[high] if high in measured else loss(path[high])


def _note(steps: SiteK, reason: str) -> str:
    low, high = min(steps.values()), max(steps.values())
    return f"steps per site: {sum(steps.values())} in total, K = {low} to {high} ({reason})"


def _effect(fits: SiteFits, site: Site, k: int) -> float:
    """What the site's error adds to the squared error of the outputs, up to a common factor."""
    histogram = fits.source.observed.histograms[site.name]
    mass = histogram.mass if histogram.mass.sum() > 0 else histogram.counts.astype(np.float64)
    x = histogram.centres
    y = fits.neuron(site, k, torch.float64).decode(torch.from_numpy(x)).numpy()
    return float(mass @ (y - site.values(x)) ** 2)


def _path(effects: Mapping[str, Mapping[int, float]]) -> list[dict[str, int]]:
    """Allocations from the fewest steps to the most, each better than the one before.

    A site goes along the lower convex hull of its effect over K: the steepest descent of all
    comes next.
    """
    moves: list[tuple[float, int, str, int]] = []
    steps = {}
    for name, by_k in effects.items():
        hull = _hull(by_k)
        steps[name] = hull[0]
        for a, b in pairwise(hull):
            moves.append(((by_k[b] - by_k[a]) / (b - a), len(moves), name, b))
    path = [dict(steps)]
    for _, _, name, k in sorted(moves):
        steps[name] = k
        path.append(dict(steps))
    return path


def _hull(by_k: Mapping[int, float]) -> list[int]:
    """K on the lower convex hull, from the fewest steps on, as long as the effect falls."""
    hull: list[int] = []
    for k in sorted(by_k):
        if hull and by_k[k] >= min(by_k[j] for j in hull):
            continue
        while len(hull) > 1 and _slope(by_k, hull[-2], hull[-1]) >= _slope(by_k, hull[-1], k):
            hull.pop()
        hull.append(k)
    return hull


def _slope(by_k: Mapping[int, float], a: int, b: int) -> float:
    return (by_k[b] - by_k[a]) / (b - a)
