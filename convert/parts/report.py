"""One report of all parts of a model, and of what stays Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..common.tables import table
from ..network.model import SpikingModel
from ..network.report import Report
from ..network.settings import ConversionSettings


@dataclass(frozen=True)
class PartRow:
    """One network of a part.

    Args:
        name: of the part; the second form in which it is called is ``name#2``.
        module: the class of the module that it replaces.
        calls: in one run of the model on a batch of the calibration data, on average.
        per_image: its rows for one image of the model: regions of a detector, time steps.
        error: of its own outputs on its calibration data; None where that wasn't measured.
        alone: whether its calls have no batch, and are each read as a batch of one.
    """

    name: str
    module: str
    calls: float
    per_image: float
    error: float | None = None
    alone: bool = False


@dataclass
class PartsReport(Report):
    """What `to_spiking(..., modules=)` did. Sites and notes begin with the name of their part.

    Args:
        parts: one row a network, in the order of the model's modules.
        python: what stays Python: modules that lie in no part, by name, each with its class.
        about: the notes on the whole.
    """

    parts: list[PartRow] = field(default_factory=list)
    python: dict[str, str] = field(default_factory=dict)
    about: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The keys of `Report.to_dict`, and ``parts`` and ``python``."""
        return {
            **super().to_dict(),
            "parts": [asdict(row) for row in self.parts],
            "python": dict(self.python),
        }

    def __str__(self) -> str:
        rows = [
            (row.name, row.module, row.calls, row.per_image, "" if row.error is None else row.error)
            for row in self.parts
        ]
        head = ("part", "module", "calls", "per image", "output error")
        left = ", ".join(f"{name} ({kind})" for name, kind in self.python.items())
        stays = (
            f"stays Python: forward of the model, {left}"
            if left
            else ("stays Python: forward of the model")
        )
        return f"{table(head, rows)}\n\n{super().__str__()}\n\n{stays}"


def output_error(network: SpikingModel) -> float | None:
    """The error of a part's own outputs on its calibration data; None if it wasn't measured."""
    rows = network.report.output_errors if network.report is not None else []
    known = [row.error for row in rows if row.steps == network.fitted_as]
    return known[0] if known else None


def joined(
    reports: Mapping[str, Report],
    rows: Sequence[PartRow],
    python: Mapping[str, str],
    settings: ConversionSettings | None,
    images: int,
    notes: Sequence[str] = (),
) -> PartsReport:
    """One report.

    Numbers for one image are those of an image of the whole model: a part that runs over a
    thousand regions of an image has a thousand times the neurons of one region.

    Args:
        reports: of every network, by its name in the report.
        rows: of the same networks.
        python: what stays Python.
        settings: of the conversion.
        images: of the whole model's calibration data.
        notes: on the whole.
    """
    known = {row.name: row for row in rows}
    sites, operations, all_notes = [], [], list(notes)
    latency, seconds = 0.0, dict[str, float]()
    for name, report in reports.items():
        row = known[name]
        for site in report.sites:
            neurons = max(round(site.neurons * row.per_image), 1)
            sites.append(replace(site, name=f"{name}.{site.name}", neurons=neurons))
        for operation in report.operations:
            accumulates = round(operation.multiply_accumulates * row.per_image)
            where = _within(name, operation.where)
            operations.append(replace(operation, where=where, multiply_accumulates=accumulates))
        all_notes += [f"{name}: {note}" for note in report.notes]
        all_notes += [f"{name}: {correction}" for correction in report.corrections]
        all_notes += [f"{name}: {e.within(name)}" for e in report.output_errors if e.poor]
        latency += row.calls * report.latency_steps
        for stage, took in report.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + took
    first = next(iter(reports.values()))
    return PartsReport(
        sites=sites,
        operations=operations,
        latency_steps=round(latency),
        method=first.method,
        seed=first.seed,
        calibration_images=images,
        seconds=seconds,
        notes=list(dict.fromkeys(all_notes)),
        settings=settings,
        parts=list(rows),
        python=dict(python),
        about=list(notes),
    )


def _within(part: str, where: str) -> str:
    """A place in a part: the path of a module, or a line of its source."""
    if not where:
        return part
    return f"{where} ({part})" if ":" in where else f"{part}.{where}"
