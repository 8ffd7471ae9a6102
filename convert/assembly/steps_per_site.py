"""Chooses K and gates for every site: the fewest time steps in total for an error of the outputs.

Where spikes have a price or a budget it is the fewest events. Gates take one time step. The fits of
every size tell what a site adds to the outputs' error to first order: the error of the fit,
weighted with the squared gradients that calibration saw. Steps (or events) go one after the other
to where they take most of that away; how many are needed is measured on calibration images with all
sites spiking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch

from ..common.progress import Progress
from ..errors import CalibrationError, InputError
from ..network.settings import Automatic
from ..sites.find import Site
from .calibrated import Calibrated, Size, Sizes
from .side_by_side import Sample
from .site_fits import SiteFits
from .spike_prices import expected_events

# No site gets more steps.
_MOST = 16
# Gates that are compared, as far as they are allowed.
_GATES = (0, 1, 3, 7)
# Where events are counted, sizes in between save hardly any; each takes a search of its own.
_COUNTED_STEPS, _COUNTED_GATES = (1, 2, 3, 4, 6), (0,)
# A budget may allow more.
_LARGE_STEPS = (8, 12)


class SizeCosts(Protocol):
    """What a network costs for one image: the sum of what its sites cost, and a fixed rest."""

    @property
    def unit(self) -> str:
        """Of a cost."""

    @property
    def fixed(self) -> float:
        """Cost of what doesn't depend on the neurons."""

    def spent(self, site: str, *, steps: int, intervals: int, trains: int, events: float) -> float:
        """Cost of one site.

        Args:
            site: its name.
            steps, intervals: K and G of its neurons.
            trains: steps and intervals in which they send events.
            events: of one neuron for one of its inputs.
        """


class Option(NamedTuple):
    """What a site's size means for the network.

    Args:
        spent: time steps, events per neuron of the network, or operations or energy.
        effect: on the outputs' relative squared error, with a price of events where steps count.
    """

    spent: float
    effect: float


# By the name of the site.
Options = Mapping[str, Mapping[Size, Option]]


@dataclass(frozen=True)
class Choice:
    """The size of every site.

    Args:
        sizes: by the name of the site.
        note: what was chosen and why, for the report.
    """

    sizes: Sizes
    note: str


def choose(
    fits: SiteFits, wanted: Automatic, costs: SizeCosts | None = None, *, progress: bool = False
) -> Choice:
    """The size of every site.

    Args:
        fits: of the network; every size that is compared is fitted there.
        wanted: the largest error, which takes calibration images, or the number of steps.
        costs: of every size, where they have a budget.
        progress: shows a bar on stderr.

    Raises:
        InputError: if the budget is less than one step a site.
        CalibrationError: if an error has to be measured and there are no images.
    """
    source = fits.source
    _check_budget(source, wanted)
    compared = list(_compared(source, wanted))
    fits.fit(compared)
    options = _options(fits, compared, wanted, costs)
    path = _path(options)
    if wanted.budget is not None:
        last_within = [sizes for sizes in path if _total(sizes) <= wanted.budget][-1]
        return Choice(last_within, _note(last_within, f"budget {wanted.budget}"))
    if wanted.budget_spikes is not None:
        return _within(path, options, ("budget_spikes", wanted.budget_spikes, "events per neuron"))
    if wanted.counts_costs and costs is not None:
        return _within(path, options, _cost_budget(wanted, costs), costs.fixed)
    loss, images = _loss(fits)
    found, last = _first_within(path, loss, wanted.max_loss, progress)
    events = f", {_spent(found, options):.3f} events per neuron" if wanted.counts_spikes else ""
    reason = f"max_loss {wanted.max_loss:g}: {last:.3g} on {images} calibration images"
    if last > wanted.max_loss:
        reason += ", which more steps don't reach"
    return Choice(found, _note(found, reason + events))


def _options(
    fits: SiteFits,
    compared: Sequence[tuple[Site, Size]],
    wanted: Automatic,
    costs: SizeCosts | None,
) -> Options:
    """What every size of every site spends and does."""
    found: dict[str, dict[Size, Option]] = {site.name: {} for site in fits.source.sites}
    for site, size in compared:
        effect = _effect(fits, site, size)
        spent = float(size.latency)
        if wanted.counts_spikes or wanted.spike_cost:
            effect /= fits.prices.elements
            events = fits.prices.events(site, fits.solution(site, size))
            if wanted.counts_costs and costs is not None:
                spent = _cost(fits, site, size, costs)
            elif wanted.counts_spikes:
                spent = events
            else:
                effect += wanted.spike_cost * events
        found[site.name][size] = Option(spent, effect)
    return found


def _cost(fits: SiteFits, site: Site, size: Size, costs: SizeCosts) -> float:
    """What a size of a site costs for one image."""
    solution = fits.solution(site, size)
    intervals = len(solution.gates) + 1
    constants = int(np.count_nonzero(solution.offset)) if intervals > 1 else 0
    return costs.spent(
        site.name,
        steps=size.steps,
        intervals=intervals,
        trains=size.steps * intervals + constants,
        events=expected_events(fits.source.observed.histograms[site.name], solution),
    )


def _cost_budget(wanted: Automatic, costs: SizeCosts) -> tuple[str, float, str]:
    """The budget of operations or energy: its name, number and unit."""
    if wanted.budget_operations is not None:
        return "budget_operations", wanted.budget_operations, f"{costs.unit} for one image"
    assert wanted.budget_energy is not None
    return "budget_energy", wanted.budget_energy, f"{costs.unit} for one image"


def _within(
    path: Sequence[Sizes], options: Options, budget: tuple[str, float, str], fixed: float = 0.0
) -> Choice:
    """The last allocation of a path that spends so much at most.

    Args:
        path: allocations.
        options: what they spend.
        budget: its name, number and unit.
        fixed: what is spent whatever the allocation is.

    Raises:
        InputError: if the first spends more.
    """
    name, most, unit = budget
    within = [sizes for sizes in path if fixed + _spent(sizes, options) <= most]
    if not within:
        least = fixed + _spent(path[0], options)
        raise InputError(
            f"{name}={most:g} is less than the {least:.3g} {unit} of the cheapest neurons; give "
            "more, or a spike_cost, which makes them cheaper"
        )
    spent = fixed + _spent(within[-1], options)
    reason = f"{name} {most:g}: {spent:.4g} {unit}"
    return Choice(within[-1], _note(within[-1], reason))


def _spent(sizes: Sizes, options: Options) -> float:
    """What an allocation spends in all."""
    return sum(options[name][size].spent for name, size in sizes.items())


def _check_budget(source: Calibrated, wanted: Automatic) -> None:
    least = sum(source.fixed_steps.get(site.name, 1) for site in source.sites)
    if wanted.budget is not None and wanted.budget < least:
        raise InputError(
            f"budget={wanted.budget} is less than the {least} steps that {len(source.sites)} sites "
            "need at least; give more"
        )


def _compared(source: Calibrated, wanted: Automatic) -> Iterator[tuple[Site, Size]]:
    """Every site with every size that it may have, site by site.

    Args:
        source: the network.
        wanted: whether events are counted, or steps.
    """
    counted = wanted.counts_spikes
    steps: Sequence[int] = _COUNTED_STEPS if counted else range(1, _MOST + 1)
    if wanted.budget_spikes is not None or wanted.counts_costs:
        steps = (*_COUNTED_STEPS, *_LARGE_STEPS)
    fewer = _COUNTED_GATES if counted else _GATES
    for site in source.sites:
        fixed = source.fixed_steps.get(site.name)
        most = source.gates[site.name]
        for gates in sorted({g for g in fewer if g < most} | {most}):
            for k in steps if fixed is None else (fixed,):
                yield site, Size(k, gates)


def _total(sizes: Sizes) -> int:
    """Time steps of all sites together."""
    return sum(size.latency for size in sizes.values())


def _loss(fits: SiteFits) -> tuple[Callable[[Sizes], float], int]:
    """The relative squared error of the outputs for some sizes, and on how many images."""
    source = fits.source
    if source.batches is None:
        raise CalibrationError(
            "max_loss is measured on calibration images; give calibration data, or a budget"
        )
    exact = {site.module: site.function for site in source.sites}
    captured, device = source.captured, source.device
    sample = Sample(captured.graph_module, exact, captured.signature, source.batches, device)

    def loss(sizes: Sizes) -> float:
        neurons = {
            site.module: fits.neuron(site, sizes[site.name]).to(device) for site in source.sites
        }
        return sample.error(neurons) ** 2

    return loss, sample.images


def _first_within(
    path: Sequence[Sizes], loss: Callable[[Sizes], float], most: float, progress: bool
) -> tuple[Sizes, float]:
    """The first allocation of a path whose loss is small enough, or the last, and its loss."""
    low, high, measured = 0, len(path) - 1, {}
    with Progress[None](title="choose steps", shown=progress) as bar:
        while low < high:
            middle = (low + high) // 2
            measured[middle] = loss(path[middle])
            low, high = (low, middle) if measured[middle] <= most else (middle + 1, high)
            bar.update()
    return path[high], measured[high] if high in measured else loss(path[high])


def _note(sizes: Sizes, reason: str) -> str:
    steps = [size.steps for size in sizes.values()]
    gated = sum(size.gates > 0 for size in sizes.values())
    gates = f", {gated} of {len(sizes)} sites gated" if gated else ""
    return (
        f"steps per site: {_total(sizes)} in total, K = {min(steps)} to {max(steps)}{gates} "
        f"({reason})"
    )


def _effect(fits: SiteFits, site: Site, size: Size) -> float:
    """What the site's error adds to the squared error of the outputs, up to a common factor."""
    histogram = fits.source.observed.histograms[site.name]
    mass = histogram.mass if histogram.mass.sum() > 0 else histogram.counts.astype(np.float64)
    x = histogram.centres
    y = fits.neuron(site, size, torch.float64).decode(torch.from_numpy(x)).numpy()
    return float(mass @ (y - site.values(x)) ** 2)


def _path(options: Options) -> list[dict[str, Size]]:
    """Allocations from those that spend least to those that spend most, each better than before.

    A site goes along the lower convex hull of its effect over what it spends: the steepest descent
    of all comes next.
    """
    moves: list[tuple[float, int, str, Size]] = []
    sizes = {}
    for name, by_size in options.items():
        hull = _hull(by_size)
        sizes[name] = hull[0]
        for a, b in pairwise(hull):
            moves.append((_slope(by_size, a, b), len(moves), name, b))
    path = [dict(sizes)]
    for _, _, name, size in sorted(moves):
        sizes[name] = size
        path.append(dict(sizes))
    return path


def _hull(by_size: Mapping[Size, Option]) -> list[Size]:
    """Sizes on the lower convex hull, from the cheapest on, as long as the effect falls."""
    hull: list[Size] = []
    for size in sorted(by_size, key=lambda size: (*by_size[size], size.gates, size.steps)):
        if hull and by_size[size].effect >= min(by_size[other].effect for other in hull):
            continue
        while len(hull) > 1 and _slope(by_size, hull[-2], hull[-1]) >= _slope(
            by_size, hull[-1], size
        ):
            hull.pop()
        hull.append(size)
    return hull


def _slope(by_size: Mapping[Size, Option], a: Size, b: Size) -> float:
    """Effect for what is spent more; -inf where nothing is."""
    spent, effect = (y - x for x, y in zip(by_size[a], by_size[b], strict=True))
    return effect / spent if spent > 0 else -math.inf
