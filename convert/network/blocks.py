"""The blocks that change what a network's calls do: readouts, other K, exact sites, counts.

A block makes a new plan from the one around it. It holds for the thread that entered it.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from types import MappingProxyType
from typing import Any

import torch

from ..errors import InputError
from ..neuron.few_spikes import WHOLE, FewSpikesNeuron, NeuronPlan, around
from .range_check import Outside, OutsideCounter
from .run_plan import Kept, RunPlan, Tally
from .site_map import SiteMap
from .spike_counts import SpikeCounts

_DEFAULT = RunPlan()
# The plans of this thread's runs, by network.
_plans: ContextVar[Mapping[torch.nn.Module, RunPlan]] = ContextVar(
    "plans", default=MappingProxyType({})
)
_lock = Lock()


class Blocks(torch.nn.Module):
    """What calls of a network do; `SpikingModel` says how.

    Args:
        names: path of each neuron by the name of its site.
    """

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self.names = names
        # Absent only while a network is put together.
        self.report: Any = None
        # Neurons of the same sites fitted with other K, by str(K) and by neuron path as in `exact`.
        self.refitted = torch.nn.ModuleDict()
        # K that the network's own neurons were fitted as.
        self.fitted_as = 0
        # How many blocks, of any thread, change what calls do just now.
        self._blocks = 0
        # The plan of a replica, which `nn.DataParallel` calls in a thread of its own.
        self._replicated: RunPlan | None = None

    def neuron_of(self, site: str, fit: int | None) -> torch.nn.Module:
        """The neuron of a site: the network's own, or that of another K."""
        raise AssertionError("a network knows its neurons")

    @property
    def sites(self) -> SiteMap:
        """The neuron of every site; inside `with_steps`, of that K."""
        fit = self.plan.fit
        return SiteMap({name: self.neuron_of(name, fit) for name in self.names})  # type: ignore[misc]

    @property
    def steps(self) -> int:
        """K that the neurons were fitted as; inside `with_steps`, that K."""
        fit = self.plan.fit
        return self.fitted_as if fit is None else fit

    @property
    def longest(self) -> int:
        """The largest number of steps of a site: more than `steps` if a site has a K of its own."""
        return self._longest(self.plan.fit)

    def _longest(self, fit: int | None) -> int:
        modules = (self.neuron_of(name, fit) for name in self.names)
        return max((m.steps for m in modules if isinstance(m, FewSpikesNeuron)), default=0)

    def _ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest calibrated input of every site."""
        return {row.name: (row.low, row.high) for row in self.report.sites}

    def _masked(self) -> set[str]:
        """Sites whose neuron gives for -inf what the site's function gives."""
        raise AssertionError("a network knows its neurons")

    @property
    def plan(self) -> RunPlan:
        """What a call does just now, in this thread: what the blocks around it say."""
        if self._replicated is not None:
            return self._replicated
        return _plan_of(self) if self._blocks else _DEFAULT

    @contextmanager
    def running(self, **changes: Any) -> Iterator[RunPlan]:
        """Changes the plan of the calls inside the block, in this thread; see `RunPlan`.

        A neuron of the network that is called by itself follows it too.
        """
        plan = dataclasses.replace(self.plan, **changes)
        token = _plans.set(MappingProxyType({**_plans.get(), self: plan}))
        bare = around.set(_plan_of_neuron)
        with _lock:
            self._blocks += 1
        try:
            yield plan
        finally:
            with _lock:
                self._blocks -= 1
            around.reset(bare)
            _plans.reset(token)

    @contextmanager
    def readout(self, step: int | None, *, corrected: bool = True) -> Iterator[None]:
        """Cuts every neuron after its first `step` steps inside the block (an anytime readout).

        Args:
            step: 1..K, or None for all.
            corrected: adds the calibrated mean of what the missing steps would have added.

        Raises:
            InputError: if step isn't a whole number in 1..K, the largest that was fitted.
        """
        if step is not None:
            longest = max(self._longest(fit) for fit in (None, *map(int, self.refitted)))
            number = _whole(step)
            if number is None or not 1 <= number <= longest:
                raise InputError(f"step must be a whole number from 1 to {longest}, found {step!r}")
            step = number
        with self.running(readout=step, corrected=corrected):
            yield

    @contextmanager
    def with_steps(self, steps: int) -> Iterator[None]:
        """Uses the neurons that were fitted as another K inside the block, or its own.

        Raises:
            InputError: if the network wasn't fitted for it.
        """
        fit = _whole(steps)
        if fit is None or (fit != self.fitted_as and str(fit) not in self.refitted):
            fitted = ", ".join([str(self.fitted_as), *self.refitted])
            raise InputError(
                f"the network was fitted for K = {fitted}, not for {steps!r}; name every K in "
                "steps= at conversion"
            )
        with self.running(fit=None if fit == self.fitted_as else fit):
            yield

    @contextmanager
    def spiking_only(self, sites: Collection[str]) -> Iterator[None]:
        """Lets only these sites spike inside the block; all others compute exactly.

        Inside another such block, only those sites spike that both name.

        Raises:
            SiteError: for a site that doesn't exist.
        """
        known = self.sites
        for name in sites:
            known[name]
        around = self.plan.spiking
        chosen = frozenset(sites) if around is None else around.intersection(sites)
        with self.running(spiking=chosen):
            yield

    @contextmanager
    def count_spikes(self) -> Iterator[dict[str, int]]:
        """Counts spikes inside the block; the yielded dict is filled by site when it ends."""
        counts: dict[str, int] = {}
        sums = SpikeCounts(self.names)
        try:
            with self.running(counters=(*self.plan.counters, sums.add)):
                yield counts
        finally:
            counts.update(sums.totals())

    @contextmanager
    def tally_spikes(self, told: Tally) -> Iterator[None]:
        """Tells, inside the block, how often each value of each site sent an event.

        An event is a spike, or a constant y0 that isn't 0 of a gated neuron's interval; NaN sends
        none. Sites that compute their exact function tell nothing, and a cut readout tells the
        steps that it does. The sums are those of `count_spikes`.

        Args:
            told: called with the name of a site and the number of events of each of its values,
                uint8 (int32 from K = 255 on) ``[...]`` like the site's input, once a call of its
                neuron. The tensor may be kept, but not written to: other blocks get the same one.
                Two of uint8 add up modulo 256: cast them first.

        Raises:
            InputError: if `told` can't be called, or in a call, if a neuron of another class tells
                nothing.
        """
        if not callable(told):
            raise InputError(
                f"tally_spikes takes a function of a site's name and a tensor, found {told!r:.80}"
            )
        with self.running(tallies=(*self.plan.tallies, told)):
            yield

    @contextmanager
    def count_outside(self) -> Iterator[dict[str, Outside]]:
        """Counts, inside the block, the values of every site outside its calibrated range.

        The yielded dict is filled by site name as the network runs; see `Outside`.
        """
        counter = OutsideCounter(self._ranges(), self._masked())
        with self.running(watchers=(*self.plan.watchers, counter)):
            yield counter.found

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Computes what comes before the first neurons once for calls with the same inputs.

        Inside the block, calls with the same tensors share it, whatever their neurons do; for
        other tensors it is computed anew. The weights must stay as they are.
        """
        with self.running(kept=Kept()):
            yield

    def _replicate_for_data_parallel(self) -> Blocks:
        replica = super()._replicate_for_data_parallel()
        assert isinstance(replica, Blocks)
        replica._replicated = dataclasses.replace(self.plan, kept=None)
        return replica


def _whole(value: Any) -> int | None:
    """A whole number; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


# `torch.compiler.disable` would load the compiler with the package, which takes as long as torch.
_not_compiled = getattr(torch, "_disable_dynamo", torch.compiler.disable)


@_not_compiled
def _plan_of(network: Blocks) -> RunPlan:
    """The plan of a network in this thread."""
    return _plans.get().get(network, _DEFAULT)


def _plan_of_neuron(neuron: FewSpikesNeuron) -> NeuronPlan:
    """What a neuron that is called by itself does, by the blocks of its network in this thread."""
    for network, plan in _plans.get().items():
        assert isinstance(network, Blocks)
        for site in network.names:
            if any(
                network.neuron_of(site, fit) is neuron
                for fit in (None, *map(int, network.refitted))
            ):
                return plan.of_neurons()(site)[0]
    return WHOLE
