"""Chooses K for every site: the fewest time steps in total for an error of the outputs.

The fits of every K tell what a site adds to the outputs' error to first order: the error of the
fit, weighted with the squared gradients that calibration saw. Steps go one after the other to where
they take most of that away; how many are needed is measured on calibration images with all sites
spiking.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from ..calibration.histogram import Histogram
from ..calibration.observe import Observed
from ..errors import CalibrationError, InputError
from ..fitting.methods import fit_problems
from ..fitting.problem import Solution
from ..graph.capture import Captured
from ..graph.chains import constants_barred
from ..sites.find import Site
from .fit_targets import problem
from .insert_neurons import neuron_of
from .settings import Automatic
from .side_by_side import Sample

# No site gets more steps.
_MOST = 16

Floats = npt.NDArray[np.float64]
Solutions = dict[tuple[str, int], Solution]


@dataclass(frozen=True)
class Choice:
    """K of every site.

    Args:
        steps: by the name of the site.
        solutions: the fits of every site and K that were compared.
        note: what was chosen and why, for the report.
    """

    steps: dict[str, int]
    solutions: Solutions
    note: str


def choose(
    captured: Captured,
    sites: Sequence[Site],
    observed: Observed,
    batches: Iterable[Any] | None,
    wanted: Automatic,
    fixed: Mapping[str, int],
    *,
    method: str,
    seed: int,
    effort: str,
    progress: bool,
) -> Choice:
    """The steps of every site.

    Args:
        captured: the network, its sites called as modules.
        sites: its sites.
        observed: histograms of their inputs.
        batches: calibration batches; None only with a budget.
        wanted: the largest error or the number of steps.
        fixed: K that a site has whatever its effect, by its name.
        method, seed, effort, progress: as for `to_spiking`.

    Raises:
        InputError: if the budget is less than one step a site.
        CalibrationError: if an error has to be measured and there are no images.
    """
    least = sum(fixed.get(site.name, 1) for site in sites)
    if wanted.budget is not None and wanted.budget < least:
        raise InputError(
            f"budget={wanted.budget} is less than the {least} steps that {len(sites)} sites need "
            "at least; give more"
        )
    barred = constants_barred(captured.graph_module, {site.module for site in sites})
    known: Solutions = {}
    pairs = [
        (site, k)
        for k in range(1, max([_MOST, *fixed.values()]) + 1)
        for site in sites
        if k == fixed.get(site.name, k if k <= _MOST else 0)
    ]
    problems = [
        problem(site, observed.histograms[site.name], k, offset=site.module not in barred)
        for site, k in pairs
    ]
    solved = fit_problems(problems, method, seed=seed, effort=effort, progress=progress)
    for (site, k), solution in zip(pairs, solved, strict=True):
        known[site.name, k] = solution
    effects = {
        site.name: {
            k: _effect(site, observed.histograms[site.name], solution)
            for (name, k), solution in known.items()
            if name == site.name
        }
        for site in sites
    }
    path = _path(effects)
    if wanted.budget is not None:
        found = [steps for steps in path if sum(steps.values()) <= wanted.budget][-1]
        return Choice(found, known, _note(found, f"budget {wanted.budget}"))
    if batches is None:
        raise CalibrationError(
            "max_loss is measured on calibration images; give calibration data, or a budget"
        )
    device = next((t.device for t in captured.graph_module.state_dict().values()), None)
    exact = {site.module: site.function for site in sites}
    sample = Sample(captured.graph_module, exact, captured.signature, batches, device)

    def loss(steps: Mapping[str, int]) -> float:
        neurons = {}
        for site in sites:
            wide = site.node.meta["val"].dtype == torch.float64
            neurons[site.module] = neuron_of(
                known[site.name, steps[site.name]],
                observed.histograms[site.name],
                dtype=torch.float64 if wide else torch.float32,
            ).to(device)
        return sample.error(neurons) ** 2

    # The first allocation of the path whose loss is small enough.
    low, high, measured = 0, len(path) - 1, {}
    with tqdm(desc="choose steps", disable=None if progress else True) as bar:
        while low < high:
            middle = (low + high) // 2
            measured[middle] = loss(path[middle])
            low, high = (low, middle) if measured[middle] <= wanted.max_loss else (middle + 1, high)
            bar.update()
    last = measured[high] if high in measured else loss(path[high])
    reason = f"max_loss {wanted.max_loss:g}: {last:.3g} on {sample.images} calibration images"
    if last > wanted.max_loss:
        reason += ", which more steps don't reach"
    return Choice(path[high], known, _note(path[high], reason))


def _note(steps: Mapping[str, int], reason: str) -> str:
    low, high = min(steps.values()), max(steps.values())
    return f"steps per site: {sum(steps.values())} in total, K = {low} to {high} ({reason})"


def _effect(site: Site, histogram: Histogram, solution: Solution) -> float:
    """What the site's error adds to the squared error of the outputs, up to a common factor."""
    mass = histogram.mass if histogram.mass.sum() > 0 else histogram.counts.astype(np.float64)
    x = histogram.centres
    neuron = neuron_of(solution, histogram, dtype=torch.float64)
    y = neuron.decode(torch.from_numpy(x)).numpy()
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
