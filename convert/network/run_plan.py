"""What a run of a network does, as a value that is handed to the run.

Context managers of `SpikingModel` make a new plan from the one around them; nothing is written
onto neurons, so plans compose, and threads don't see each other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from ..neuron.few_spikes import FewSpikesNeuron, NeuronPlan

Told = TypeVar("Told")
Counter = Callable[[str, int | Tensor], None]
Tally = Callable[[str, Tensor], None]
Watcher = Callable[[str, Tensor], None]


class Kept:
    """What `SpikingModel.repeated` keeps of the calls inside its block.

    It belongs to one block of one thread. Inputs other than those of the last call are noticed.
    """

    def __init__(self) -> None:
        self._given: list[tuple[Any, int]] = []
        self._leaves: list[Any] | None = None
        self._values: tuple[Any, ...] | None = None

    def leaves(self, given: list[Any], flatten: Callable[[], list[Any]]) -> list[Any]:
        """The flat inputs of a call, made anew where it is given something else than the last."""
        same = len(given) == len(self._given) and all(
            a is b and _version(a) == version
            for a, (b, version) in zip(given, self._given, strict=True)
        )
        if not same or self._leaves is None:
            self._leaves, self._values = flatten(), None
            self._given = [(value, _version(value)) for value in given]
        return list(self._leaves)

    def values(self, compute: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        """What comes of these inputs before every neuron."""
        if self._values is None:
            self._values = compute()
        return self._values


def _version(value: Any) -> int:
    """How often a tensor was written to; one that doesn't tell counts as never."""
    known = isinstance(value, Tensor) and not value.is_inference()
    return value._version if known else 0


@dataclass(frozen=True)
class RunPlan:
    """What a run does.

    Args:
        fit: the neurons that run: those that were fitted as this K; None for the network's own.
        readout: steps after which every neuron is cut; None for no cut.
        corrected: with a cut, adds the calibrated mean of what the missing steps would have added.
        spiking: names of the sites that spike, the others compute exactly; None for all.
        counters: told the name of a site and its spikes, once a call of its neuron; see
            `NeuronPlan` for what they are told from a GPU.
        watchers: told the name of a site and its input ``[...]`` before its neuron runs.
        kept: what calls with the same inputs share; None outside of `SpikingModel.repeated`.
        check_inputs: whether inputs are compared with the calibrated range.
        tallies: told the name of a site and the number of events of each of its values ``[...]``,
            once a call of its neuron; see `NeuronPlan`.
        sizes: told the name of a site and how many values its neuron is given, once a call of it.
    """

    fit: int | None = None
    readout: int | None = None
    corrected: bool = True
    spiking: frozenset[str] | None = None
    counters: tuple[Counter, ...] = ()
    watchers: tuple[Watcher, ...] = ()
    kept: Kept | None = field(default=None, compare=False)
    check_inputs: bool = True
    tallies: tuple[Tally, ...] = ()
    sizes: tuple[Callable[[str, int], None], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the graph does what is wanted when it is simply called."""
        return (
            self.fit is None
            and self.readout is None
            and self.spiking is None
            and not self.counters
            and not self.tallies
            and not self.watchers
            and not self.sizes
        )

    def spikes(self, site: str) -> bool:
        """Whether the neuron of a site runs, and not its exact function."""
        return self.spiking is None or site in self.spiking

    def of_neurons(self) -> Callable[[str], tuple[NeuronPlan, NeuronPlan]]:
        """What the neuron of a site does, by its name; the second may work in place."""
        cut = self.readout, self.corrected

        def pair(site: str) -> tuple[NeuronPlan, NeuronPlan]:
            plan = NeuronPlan(*cut, _at(site, self.counters), tally=_at(site, self.tallies))
            return plan, replace(plan, in_place=True)

        if self.counters or self.tallies:
            return pair
        alike = pair("")
        return lambda site: alike


def _at(
    site: str, listeners: tuple[Callable[[str, Told], None], ...]
) -> Callable[[Told], None] | None:
    """What tells listeners something of a site; None if nobody listens."""
    if not listeners:
        return None

    def tell(what: Told) -> None:
        for listener in listeners:
            listener(site, what)

    return tell


class SiteCall:
    """What a run calls for one site.

    Args:
        site: its name.
        module: its neuron, or its exact function.
        plans: of the neuron; the second may work in place.
        watchers, sizes: of the run.
    """

    __slots__ = ("_in_place", "_plan", "module", "neuron", "site", "sizes", "watchers")

    def __init__(
        self,
        site: str,
        module: torch.nn.Module,
        plans: tuple[NeuronPlan, NeuronPlan],
        watchers: tuple[Watcher, ...] = (),
        sizes: tuple[Callable[[str, int], None], ...] = (),
    ) -> None:
        self.site, self.module, self.watchers, self.sizes = site, module, watchers, sizes
        self.neuron = module if isinstance(module, FewSpikesNeuron) else None
        self._plan, self._in_place = plans

    @property
    def decodes(self) -> bool:
        """Whether the module by itself decodes, and isn't in SpikingJelly's multi-step mode."""
        return self.neuron is None or self.neuron.step_mode == "s"

    def __call__(self, x: Tensor) -> Tensor:
        """The site's output; hooks of its module run."""
        if self.neuron is None:
            return self.module(x)
        self._show(x)
        if self._plan.tally is None or type(self.neuron).decode is FewSpikesNeuron.decode:
            return self.neuron(x, plan=self._plan)
        return self._tallied(self.neuron, x, self._plan.tally)

    def _tallied(
        self, neuron: FewSpikesNeuron, x: Tensor, tally: Callable[[Tensor], None]
    ) -> Tensor:
        """The output of a neuron of another class, which must tell its tally."""
        told: list[Tensor] = []
        y: Tensor = neuron(x, plan=replace(self._plan, tally=told.append))
        if not told:
            raise InputError(
                f"site {self.site} runs a {type(neuron).__name__}, which doesn't tell how often "
                "each value fired; let its decode call plan.tally"
            )
        for each in told:
            tally(each)
        return y

    def fast(self, x: Tensor, in_place: bool) -> Tensor:
        """The same where no hook listens; the output may take the memory of x."""
        if self.neuron is None:
            return self.module(x)
        if self.watchers or self.sizes:
            self._show(x)
        return self.neuron.decode(x, plan=self._in_place if in_place else self._plan)

    def fast_sum(self, x: Tensor, addend: Tensor, in_place: bool) -> Tensor | None:
        """The same for ``x + addend``, if that takes one pass over memory; else None."""
        if self.neuron is None or self.watchers:
            return None
        if self.sizes:
            self._show(x)
        return self.neuron.decode(x, addend, plan=self._in_place if in_place else self._plan)

    def _show(self, x: Tensor) -> None:
        for watcher in self.watchers:
            watcher(self.site, x)
        for told in self.sizes:
            told(self.site, x.numel())


class CutNeuron(torch.nn.Module):
    """A neuron that is always read out after its first steps, for networks that are written out.

    Args:
        neuron: the neuron.
        steps: how many.
        corrected: adds the calibrated mean of what the missing steps would have added.
    """

    def __init__(self, neuron: FewSpikesNeuron, steps: int, corrected: bool) -> None:
        super().__init__()
        self.neuron, self.plan = neuron, NeuronPlan(steps, corrected)

    def forward(self, x: Tensor) -> Tensor:
        """The cut output for ``x [...]``."""
        return self.neuron(x, plan=self.plan)


Calls = tuple[SiteCall, ...]
Tensors = Mapping[str, Tensor]
