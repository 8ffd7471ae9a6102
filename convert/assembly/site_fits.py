"""The fits of a network's sites, each made once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count

import torch

from ..common.ranks import team
from ..fitting.jumps import Jumps
from ..fitting.methods import warm_up
from ..fitting.problem import Problem, Solution
from ..graph.chains import constants_barred, hidden_inputs
from ..network.settings import ConversionSettings
from ..neuron.few_spikes import FewSpikesNeuron
from ..sites.find import Site
from .calibrated import Calibrated, Size, Sizes
from .fit_targets import jumps_of, problem
from .growing_sums import reaches
from .insert_neurons import neuron_of
from .kept_fits import fitted
from .spike_prices import SpikePrices


class SiteFits:
    """Solutions by site and size.

    Args:
        source: the network.
        settings: how neurons are fitted.
        progress: shows a bar on stderr.
    """

    def __init__(
        self, source: Calibrated, settings: ConversionSettings, *, progress: bool = False
    ) -> None:
        self.source, self._settings, self._progress = source, settings, progress
        graph_module = source.captured.graph_module
        self.prices = SpikePrices(source, settings.spike_cost)
        self._solutions: dict[tuple[str, Size], Solution] = {}
        self._calls = count(1)
        self._barred = constants_barred(graph_module, {site.module for site in source.sites})
        self._masked = self._with_masks()
        self._jumps: dict[str, Jumps] = {}
        self._reaches = reaches(graph_module, source.captured.signature.varying, source.sites)

    def warm_up(self) -> None:
        """Compiles what the fits will run, so that their time is theirs alone."""
        gates = self.source.gates
        least = [self.problem(site, Size(1, gates[site.name])) for site in self.source.sites]
        warm_up(self._settings.method, least, self._progress)

    def fit(self, wanted: Iterable[tuple[Site, Size]]) -> None:
        """Fits sites in these sizes, all at once; what is there already isn't fitted again."""
        missing = {
            (site.name, size): (site, size)
            for site, size in wanted
            if (site.name, size) not in self._solutions
        }
        problems = [self.problem(site, size) for site, size in missing.values()]
        name = f"fits {next(self._calls)}"
        found = fitted(problems, self._settings, self.source.stages, name, progress=self._progress)
        together = team()
        if together is not None:
            # Machines that round otherwise must not go apart.
            found = together.gather("fits", found if together.rank == 0 else [])[0]
        for key, posed, solution in zip(missing, problems, found, strict=True):
            self._solutions[key] = replace(solution, offset=solution.offset + posed.base)

    def _with_masks(self) -> set[str]:
        """Sites that -inf reaches and whose function has a value there."""
        graph_module, observed = self.source.captured.graph_module, self.source.observed
        reached = hidden_inputs(graph_module)
        return {
            site.name
            for site in self.source.sites
            if (observed.histograms[site.name].minus_infinite or site.module in reached)
            and site.masks
        }

    def problem(self, site: Site, size: Size) -> Problem:
        histogram = self.source.observed.histograms[site.name]
        if site.name not in self._jumps:
            self._jumps[site.name] = jumps_of(site, histogram)
        posed = problem(
            site,
            histogram,
            size.steps,
            offset=site.module not in self._barred,
            masked=site.name in self._masked,
            jumps=self._jumps[site.name],
            gates=size.gates,
            reach=self._reaches.get(site.name, 1.0),
        )
        return self.prices.priced(site, posed)

    def solution(self, site: Site, size: Size) -> Solution:
        """The fit of a site in one size."""
        return self._solutions[site.name, size]

    def neuron(self, site: Site, size: Size, dtype: torch.dtype | None = None) -> FewSpikesNeuron:
        """A new neuron of a site; its data type is what the site's tensor needs, or `dtype`."""
        if dtype is None:
            wide = site.node.meta["val"].dtype == torch.float64
            dtype = torch.float64 if wide else torch.float32
        histogram = self.source.observed.histograms[site.name]
        return neuron_of(self.solution(site, size), histogram, dtype=dtype)

    def neurons(self, sizes: Sizes) -> dict[str, FewSpikesNeuron]:
        """New neurons of all sites, by the name of the site.

        Args:
            sizes: of every site.
        """
        return {site.name: self.neuron(site, sizes[site.name]) for site in self.source.sites}
