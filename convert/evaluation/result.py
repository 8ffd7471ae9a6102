"""The result of an evaluation: a table, a dict, a JSON file, a picture."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..common.files import atomic_path
from ..common.tables import shown as text
from ..common.tables import table
from ..network.report import Report
from .measures import Shown
from .plots import draw_steps
from .rows import FittedRow, Row, SiteErrorRow, StepRow, Whole, plain

_RAW = (
    "raw: nothing stands for the steps that are cut off; in the other columns their mean at "
    "calibration does."
)


@dataclass(frozen=True)
class Evaluation:
    """What a spiking network's outputs and spikes are against its original's outputs.

    Every row can be read by key, too: ``result.by_step[0]["agreement"]``. Below, *the measures*
    are, by metric:

    - agreement, accuracy: accuracy, agreement and logit_rmse;
    - output: relative_error and by_output;
    - perplexity: perplexity, divergence and agreement;
    - iou: iou, accuracy (of pixels), by_class, agreement and logit_rmse;
    - a function or a metric of torchmetrics: its figures by name, and relative_error.

    Args:
        report: what the conversion did.
        metric: what was measured: a name, see `evaluate`, or that of a function or class.
        shown: how the measures are called in tables and pictures.
        images: test images.
        labelled_images: those with labels; accuracies are of these alone. 0 with the metric
            ``"output"``.
        original: those of the measures that are no comparison with the original: accuracy, None
            where the data has no labels, as everywhere below; perplexity and tokens; iou, accuracy
            and by_class; a function's figures. Without keys with the metric ``"output"``.
        spiking: the whole network: the measures, neurons, spikes and spike_driven.
        by_step: the anytime readout after each step that was asked for, the last of them K.
        by_K: the network fitted anew for other K.
        by_site: for each site in graph order the error of the output if it alone spikes, and if
            all sites up to it do.
        by_site_images: images behind `by_site`.
        spikes_per_neuron: of each site, by name.
        seconds: wall time of every stage.
        notes: how the data was read, and what speaks against the figures.
    """

    report: Report
    metric: str
    shown: Shown
    images: int
    labelled_images: int
    original: Row
    spiking: Whole
    by_step: tuple[StepRow, ...]
    by_K: tuple[FittedRow, ...]
    by_site: tuple[SiteErrorRow, ...]
    by_site_images: int
    spikes_per_neuron: dict[str, float]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()

    def to_dict(self, **more: Any) -> dict[str, Any]:
        """Everything, the conversion's report included, in JSON's types; `more` comes first.

        A number that isn't finite is None. ``labelled_images`` is a key where some images have
        labels and some have none, ``evaluation_notes`` where there are any.
        """
        report = self.report.to_dict()
        for site in report["sites"]:
            site["spikes_per_neuron"] = self.spikes_per_neuron[site["name"]]
        found: dict[str, Any] = plain(
            {
                **more,
                **report,
                "metric": self.metric,
                "images": self.images,
                **({"labelled_images": self.labelled_images} if self._partly_labelled else {}),
                "original": self.original,
                "spiking": self.spiking,
                "by_step": self.by_step,
                "by_K": self.by_K,
                "by_site": self.by_site,
                "by_site_images": self.by_site_images,
                "seconds": {**self.report.seconds, **self.seconds},
                **({"evaluation_notes": list(self.notes)} if self.notes else {}),
            }
        )
        return found

    def to_json(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Writes `to_dict` as JSON, whole or not at all."""
        text = json.dumps(self.to_dict(**more), indent=1, allow_nan=False)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the measures and the spikes over the steps into a picture."""
        draw_steps(
            self.by_step,
            self.by_K,
            path,
            shown=self.shown,
            original=self.original,
            title=f"K = {self.report.steps}, {self.images} images",
        )

    def __str__(self) -> str:
        parts = [
            self._steps_table(),
            self._fitted_table(),
            self._outputs_table(),
            self._worst_sites(),
            self._bare(),
            self._broken(),
            "\n".join(f"note: {note}" for note in self.notes),
            self._summary(),
        ]
        return "\n\n".join(part for part in parts if part)

    @property
    def _partly_labelled(self) -> bool:
        return 0 < self.labelled_images < self.images

    def _steps_table(self) -> str:
        columns, drawn = self.shown.columns, self.shown.drawn
        rows = [
            (
                row.step,
                *(row.measures[key] for key in columns),
                row.raw[drawn],
                row.spikes_per_neuron,
            )
            for row in self.by_step
        ]
        if any(self.original.get(key) is not None for key in self.shown.own):
            exact = [self.original.get(key) for key in columns]
            rows.append(("original", *exact, None, None))
        head = ("step", *columns.values(), f"raw {columns[drawn]}", "spikes/neuron")
        return (
            "Readout after each step (every neuron cut after its first t steps; a layer still "
            "waits for the one before)\n" + table(head, rows) + "\n\n" + _RAW
        )

    def _fitted_table(self) -> str:
        columns = self.shown.columns
        rows = [
            (
                row.steps,
                row.latency_steps,
                *(row.measures[key] for key in columns),
                row.spikes_per_neuron,
            )
            for row in self.by_K
        ]
        head = ("K", "latency", *columns.values(), "spikes/neuron")
        return "Fitted anew for other K\n" + table(head, rows) if rows else ""

    def _outputs_table(self) -> str:
        each = self.spiking.get("by_output", {})
        head = ("output", self.shown.columns[self.shown.drawn])
        return table(head, list(each.items())) if len(each) > 1 else ""

    def _worst_sites(self) -> str:
        """The sites with the largest errors; one that makes NaN or infinity comes first."""
        key = self.shown.error
        errors = [(row.own[key], row.name) for row in self.by_site]
        if all(error is None for error, _ in errors):
            return ""
        worst = sorted(errors, key=lambda pair: -math.inf if pair[0] is None else -pair[0])[:5]
        names = ", ".join(
            f"{name} {'-' if error is None else f'{error:.4f}'}" for error, name in worst
        )
        return f"Sites that add most on their own ({self.shown.columns[key]}): {names}"

    def _bare(self) -> str:
        bare, drawn = self.spiking.without_encoding, self.shown.drawn
        if bare is None:
            return ""
        return (
            f"Without the identity neurons on analog operands the {self.shown.columns[drawn]} is "
            f"{text(bare[drawn])}"
        )

    def _broken(self) -> str:
        """How many images have no value, where there are any."""
        found = [
            f"{who} {row[self.shown.broken]}"
            for who, row in self._named_rows()
            if self.shown.broken in row
        ]
        return f"{self.shown.broken_text}: {', '.join(found)}" if found else ""

    def _named_rows(self) -> Iterator[tuple[str, Row]]:
        yield "original", self.original
        yield from ((f"step {row.step}", row.measures) for row in self.by_step)
        yield from ((f"raw step {row.step}", row.raw) for row in self.by_step[:-1])
        yield from ((f"fitted for K = {row.steps}", row.measures) for row in self.by_K)

    def _summary(self) -> str:
        whole, drawn = self.spiking, self.shown.drawn
        of = f" on {self.labelled_images} labelled images" if self._partly_labelled else ""
        own = "".join(
            f"{self.shown.columns[key]} {text(whole[key])} (original {text(self.original[key])})"
            f"{of}, "
            for key in self.shown.own
            if self.original.get(key) is not None
        )
        return (
            f"K = {self.report.steps} on {self.images} images: {own}"
            f"{self.shown.columns[drawn]} {text(whole.measures[drawn])}, "
            f"{whole.spikes_per_image:,.0f} spikes per image "
            f"({whole.spikes_per_neuron:.3f} per neuron), {whole.spike_driven:.1%} of the "
            "multiply-accumulates driven by spikes"
        )
