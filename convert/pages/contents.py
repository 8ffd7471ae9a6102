"""What stands on a page, as values that templates write down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from platform import python_version
from typing import Any

from ..inspect.energy_report import Energy, Range
from ..network.report import Report, SiteRow
from ..network.settings import ConversionSettings
from .charts import Chart
from .evaluation_charts import charts_of
from .given import Conversion
from .site_curves import SiteCurve, site_curves
from .svg import Axis, short
from .verdict import Verdict, verdict_on
from .words import figure

_PACKAGES = ("fewspikes", "torch", "numpy", "spikingjelly")
# What won at a site, in words.
STARTS: Mapping[str, str] = {
    "tbpi": "the paper's TBPI method",
    "random": "random numbers, refined",
    "binary": "a binary table: each step half of the one before",
    "library": "a table from the package's library",
    "grown": "a table grown step by step",
    "digits": "the digits of a straight line",
    "stairs": "one step for each jump of the function",
}
_NETWORKS: Mapping[tuple[str, str], str] = {
    ("arithmetic", "spiking"): "spiking, arithmetic only",
    ("arithmetic", "original"): "original, arithmetic only",
    ("with_memory", "spiking"): "spiking, with memory",
    ("with_memory", "original"): "original, with memory",
    ("quantised_dense", "arithmetic"): "quantised, every value, arithmetic only",
    ("quantised_dense", "with_memory"): "quantised, every value, with memory",
    ("quantised_zero_skipping", "arithmetic"): "quantised, zeros skipped, arithmetic only",
    ("quantised_zero_skipping", "with_memory"): "quantised, zeros skipped, with memory",
}


@dataclass(frozen=True)
class SiteLine:
    """One row of the table of sites.

    Args:
        row: of the report.
        alone, accumulated: error of the outputs if this site alone spikes, and if all up to it do.
        events: of one neuron for one image, measured on test images.
        curve: drawn; None for a neuron that isn't a `FewSpikesNeuron`.
    """

    row: SiteRow
    alone: float | None
    accumulated: float | None
    events: float | None
    curve: SiteCurve | None


@dataclass(frozen=True)
class EnergyLine:
    """One row of the energy table: what, and the cost in integers and in 32-bit floats."""

    name: str
    integer: Range | None
    floats: Range | None


@dataclass(frozen=True)
class EnergyTable:
    """Energy for one image.

    Args:
        lines: one a network and way of counting.
        unit: of all numbers.
        axis: where the bars of integer costs lie, of equal ratios.
        energy: what it is made of.
    """

    lines: tuple[EnergyLine, ...]
    unit: str
    axis: Axis
    energy: Energy

    def bar(self, cost: Range) -> dict[str, str]:
        """Coordinates of a bar from low to high, and of its usual value; none for a cost of 0."""
        if not cost.low > 0:
            return {}
        left, right = self.axis.place(cost.low), self.axis.place(cost.high)
        return {
            "x": short(left),
            "width": short(max(right - left, 1.0)),
            "usual": short(self.axis.place(cost.usual)),
        }


@dataclass(frozen=True)
class Contents:
    """Everything on the page of one network.

    Args:
        given: what it is made of.
        report: the conversion's, as report.json has it.
        verdict: the head.
        charts: of the test.
        sites: rows in graph order.
        most_steps: the largest K of a site.
        energy: its table, if it is known.
        error_name: what errors of sites are measured in.
        call: the conversion as a line of Python.
        settings: those that are not the usual ones, or that everybody wants to know.
        versions: of the packages that wrote the page.
    """

    given: Conversion
    report: Mapping[str, Any]
    verdict: Verdict
    charts: tuple[Chart, ...]
    sites: tuple[SiteLine, ...]
    most_steps: int
    energy: EnergyTable | None
    error_name: str
    call: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def title(self) -> str:
        """The network's name."""
        return self.given.title

    @property
    def starts(self) -> Mapping[str, str]:
        """What won at the sites, each explained; tables of one neuron may come from several."""
        won = {name for line in self.sites for name in str(line.row.start).split(", ")}
        return {name: told for name, told in STARTS.items() if name in won}

    @property
    def seconds(self) -> Mapping[str, float]:
        """Wall time of every stage."""
        tested = {} if self.given.result is None else self.given.result.seconds
        return {**self.given.report.seconds, **tested}


def contents_of(given: Conversion) -> Contents:
    """What stands on the page of one network."""
    report, result = given.report, given.result
    return Contents(
        given=given,
        report=report.to_dict(),
        verdict=verdict_on(report, result, given.correlation),
        charts=() if result is None else tuple(charts_of(result)),
        sites=_site_lines(given),
        most_steps=max((site.steps for site in report.sites), default=0),
        energy=None if given.energy is None else energy_table(given.energy),
        error_name="" if result is None else result.shown.columns.get(result.shown.error, ""),
        call=_call(report),
        settings={} if report.settings is None else report.settings.to_dict(),
        versions={"python": python_version(), **_versions()},
    )


def _site_lines(given: Conversion) -> tuple[SiteLine, ...]:
    curves = {curve.row.name: curve for curve in site_curves(given.snn)}
    result = given.result
    key = "" if result is None else result.shown.error
    errors = {} if result is None else {row.name: row for row in result.by_site}
    lines = []
    for row in given.report.sites:
        error = errors.get(row.name)
        lines.append(
            SiteLine(
                row,
                alone=None if error is None else error.own.get(key),
                accumulated=None if error is None else error.accumulated.get(key),
                events=None if result is None else result.spikes_per_neuron[row.name],
                curve=curves.get(row.name),
            )
        )
    return tuple(lines)


def energy_table(energy: Energy) -> EnergyTable:
    """The rows of an energy in one unit."""
    large = max(row.cost.usual for row in energy.rows) >= 1e4
    scale, unit = (1e-3, "µJ") if large else (1.0, "nJ")
    costs: dict[tuple[str, str], dict[str, Range]] = {}
    for row in energy.rows:
        cost = Range(row.cost.low * scale, row.cost.usual * scale, row.cost.high * scale)
        costs.setdefault((row.name, row.what), {})[row.numbers] = cost
    lines = [
        EnergyLine(_NETWORKS.get(key, ", ".join(key)), by.get("integer"), by.get("float32"))
        for key, by in costs.items()
    ]
    known = [end for by in costs.values() for cost in by.values() for end in (cost.low, cost.high)]
    above = [end for end in known if end > 0 and math.isfinite(end)]
    low, high = min(above, default=1.0), max(above, default=10.0)
    return EnergyTable(tuple(lines), unit, Axis(low / 1.2, high * 1.2, 0.0, 100.0, True), energy)


def _call(report: Report) -> str:
    """The conversion in Python; settings that are the usual ones are left out."""
    settings = report.settings
    if settings is None:
        return f"to_spiking(model, calibration, steps={report.steps}, method={report.method!r})"
    usual = {f.name: f.default for f in fields(ConversionSettings)}
    plain = ConversionSettings(steps=settings.steps).to_dict()
    told = [f"steps={settings.to_dict()['steps']!r}"]
    told += [
        f"{name}={value!r}"
        for name, value in settings.to_dict().items()
        if name in usual and name != "steps" and value != plain.get(name)
    ]
    return f"to_spiking(model, calibration, {', '.join(told)})"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def cost_text(cost: Range | None) -> str:
    """``55.9 (33.5 to 83.8)``."""
    if cost is None:
        return "–"
    return f"{figure(cost.usual)} ({figure(cost.low)} to {figure(cost.high)})"
