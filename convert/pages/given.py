"""What a page is made of: a converted network and what was measured of it, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConversionError, InputError
from ..evaluation.result import Evaluation
from ..inspect.correlation import Correlation, correlate
from ..inspect.counting import count_operations
from ..inspect.energy import energy as energy_of
from ..inspect.energy_report import Energy
from ..inspect.operation_counts import OperationCounts
from ..network.model import SpikingModel
from ..network.report import Report


@dataclass(frozen=True)
class Conversion:
    """A converted network and what was measured of it.

    Args:
        snn: from `to_spiking` or `load`.
        result: from `evaluate`.
        counts: from `count_operations`.
        energy: from `convert.inspect.energy`; of the counts, at the usual costs, if left out.
        correlation: from `correlate`, for what is weak and what to change.
        name: of the network; that in ``snn.metadata["model"]`` if empty.
        details: what else is needed to make it again, by name: a command, the preprocessing.
        missing: why a measurement couldn't be made, by its name.
    """

    snn: SpikingModel
    result: Evaluation | None = None
    counts: OperationCounts | None = None
    energy: Energy | None = None
    correlation: Correlation | None = None
    name: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_network(self.snn)
        _check_kind("result", self.result, Evaluation, "evaluate(snn, model, data)")
        _check_kind("counts", self.counts, OperationCounts, "count_operations(snn, data)")
        _check_kind("energy", self.energy, Energy, "energy(counts)")
        _check_kind("correlation", self.correlation, Correlation, "correlate(snn, model, images)")
        self._check_together()

    @property
    def report(self) -> Report:
        """Of the conversion."""
        assert self.snn.report is not None
        return self.snn.report

    @property
    def title(self) -> str:
        """The name of the network."""
        known = self.name or self.snn.metadata.get("model")
        return str(known) if known else "A converted network"

    def _check_together(self) -> None:
        """Refuses measurements of another network."""
        sites = {site.name for site in self.report.sites}
        if self.result is not None and set(self.result.spikes_per_neuron) != sites:
            raise InputError(
                "result is the evaluation of another network: its sites are "
                f"{_some(self.result.spikes_per_neuron)}, the network's are {_some(sites)}; "
                "evaluate this network"
            )
        if self.correlation is not None:
            strange = {row.name for row in self.correlation.sites} - sites
            if strange:
                raise InputError(
                    f"correlation is that of another network: it has {_some(strange)}, which this "
                    "network has not; correlate this network"
                )
        steps = max((site.steps for site in self.report.sites), default=0)
        if self.counts is not None and self.counts.steps != steps:
            raise InputError(
                f"counts are those of a network with K = {self.counts.steps}, this one has K = "
                f"{steps}; count this network, outside of with_steps"
            )
        if self.counts is not None and self.energy is not None:
            ours, theirs = self.counts.spikes_per_neuron, self.energy.events_per_neuron
            if abs(ours - theirs) > 1e-6 * max(abs(ours), 1e-12):
                raise InputError(
                    f"energy is that of a network with {theirs:.4g} events per neuron, and the "
                    f"counts have {ours:.4g}; give the energy of these counts"
                )

    def measured(self, images: Any) -> Conversion:
        """With the counts, energy and correlation that are left out, if they can be had.

        Args:
            images: a batch that operations are counted and values compared on; None for none.
        """
        counts, energy, correlation = self.counts, self.energy, self.correlation
        missing = dict(self.missing)
        if images is not None and counts is None and energy is None:
            with _noted(missing, "counts"):
                counts = count_operations(self.snn, [images], progress=False)
        if images is not None and correlation is None:
            with _noted(missing, "correlation"):
                correlation = correlate(self.snn, None, images, progress=False)
        if counts is not None and energy is None:
            with _noted(missing, "energy"):
                energy = energy_of(counts)
        return replace(self, counts=counts, energy=energy, correlation=correlation, missing=missing)


@contextmanager
def _noted(missing: dict[str, str], name: str) -> Iterator[None]:
    """Writes down why a measurement couldn't be made."""
    try:
        yield
    except ConversionError as error:
        missing[name] = str(error)


def _check_network(snn: object) -> None:
    if not isinstance(snn, SpikingModel):
        raise InputError(
            f"a page is made of a converted network, found a {type(snn).__name__}; give what "
            "to_spiking or load returned"
        )
    if snn.report is None:
        raise InputError("the network has no report, which a page shows; convert it again")
    if not snn.plan.plain:
        raise InputError(
            "a page shows the network as it is; write it outside of blocks such as "
            "snn.with_steps(...), snn.readout(...) and snn.spiking_only(...)"
        )


def _check_kind(name: str, value: object, kind: type, made_by: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise InputError(f"{name} must be what {made_by} returns, found a {type(value).__name__}")


def _some(names: Any) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "") if shown else "none"
