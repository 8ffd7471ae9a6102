"""The result of an evaluation: a table, a dict, a JSON file, a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..common.files import atomic_path
from ..common.tables import shown as text
from ..common.tables import table
from ..network.report import Report
from .metrics import Agreement, OutputError, metric_named

_Measure = Agreement | OutputError


@dataclass
class Evaluation:
    """What a spiking network's outputs and spikes are against its original's outputs.

    Below, *the measures* are accuracy, agreement and logit_rmse, or with the metric ``"output"``
    relative_error and by_output.

    Args:
        report: what the conversion did.
        metric: what was measured, see `evaluate`.
        images: test images.
        original: ``{"accuracy"}``; None where the data has no labels, as everywhere below. Empty
            with the metric ``"output"``.
        spiking: the whole network: the measures, neurons, spikes_per_image, spikes_per_neuron,
            spike_driven; ``without_encoding`` has the measures with the identity neurons on
            analog operands left out, where there are any.
        by_step: the anytime readout after each step that was asked for, the last of them K, with
            the calibrated mean of what is missing, and ``raw`` without it.
        by_K: the network fitted anew for other K.
        by_site: for each site in graph order the error of the output if it alone spikes, and if
            all sites up to it do.
        by_site_images: images behind `by_site`.
        spikes_per_neuron: of each site, by name.
        seconds: wall time of every stage.
    """

    report: Report
    metric: str
    images: int
    original: dict[str, Any]
    spiking: dict[str, Any]
    by_step: list[dict[str, Any]]
    by_K: list[dict[str, Any]]
    by_site: list[dict[str, Any]]
    by_site_images: int
    spikes_per_neuron: dict[str, float]
    seconds: dict[str, float]

    @classmethod
    def of(
        cls,
        report: Report,
        *,
        metric: str = "agreement",
        images: int,
        exact: _Measure,
        readouts: Mapping[tuple[int, bool], _Measure],
        refits: Mapping[int, _Measure],
        bare: _Measure | None,
        spikes: dict[Any, dict[str, int]],
        by_site: list[dict[str, Any]],
        by_site_images: int,
        seconds: dict[str, float],
    ) -> Evaluation:
        """Divides what was counted by images and neurons."""
        neurons, read = report.neurons, sorted({step for step, _ in readouts})
        steps = read[-1]

        def measured(found: _Measure, counted: dict[str, int]) -> dict[str, Any]:
            return {
                **found.values,
                "spikes_per_neuron": sum(counted.values()) / (images * neurons),
            }

        by_step = []
        for step in read:
            raw = readouts[step, False]
            row = {"step": step, **measured(readouts[step, True], spikes[step])}
            row["raw"] = {key: raw.values[key] for key in raw.raw}
            by_step.append(row)
        whole = {key: by_step[-1][key] for key in exact.values}
        total = sum(spikes[steps].values()) / images
        whole |= {"neurons": neurons, "spikes_per_image": total}
        whole |= {"spikes_per_neuron": total / neurons, "spike_driven": report.spike_driven}
        if bare is not None:
            whole["without_encoding"] = bare.values
        return cls(
            report=report,
            metric=metric,
            images=images,
            original={k: v for k, v in exact.values.items() if k == "accuracy"},
            spiking=whole,
            by_step=by_step,
            by_K=[{"steps": k, **measured(a, spikes[str(k)])} for k, a in refits.items()],
            by_site=by_site,
            by_site_images=by_site_images,
            spikes_per_neuron={
                site.name: spikes[steps][site.name] / (images * site.neurons)
                for site in report.sites
            },
            seconds=seconds,
        )

    def to_dict(self, **more: Any) -> dict[str, Any]:
        """Everything, the conversion's report included, in JSON's types; `more` comes first."""
        report = self.report.to_dict()
        for site in report["sites"]:
            site["spikes_per_neuron"] = self.spikes_per_neuron[site["name"]]
        return {
            **more,
            **report,
            "metric": self.metric,
            "images": self.images,
            "original": self.original,
            "spiking": self.spiking,
            "by_step": self.by_step,
            "by_K": self.by_K,
            "by_site": self.by_site,
            "by_site_images": self.by_site_images,
            "seconds": {**self.report.seconds, **self.seconds},
        }

    def to_json(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Writes `to_dict` as JSON, whole or not at all."""
        text = json.dumps(self.to_dict(**more), indent=1, allow_nan=False)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the measures and the spikes over the steps into a picture."""
        from .plots import draw_evaluation

        draw_evaluation(self, path)

    def __str__(self) -> str:
        whole, kind = self.spiking, metric_named(self.metric)
        keys, shown = list(kind.columns), kind.drawn
        drawn = kind.columns[shown]
        rows = [
            (
                row["step"],
                *(row[key] for key in keys),
                row["raw"][shown],
                row["spikes_per_neuron"],
            )
            for row in self.by_step
        ]
        columns = ("step", *kind.columns.values(), f"raw {drawn}", "spikes/neuron")
        parts = [
            "Readout after each step (every neuron cut after its first t steps; a layer still "
            "waits for the one before)\n" + table(columns, rows)
        ]
        if self.by_K:
            fitted = [
                (r["steps"], *(r[key] for key in keys), r["spikes_per_neuron"]) for r in self.by_K
            ]
            head = ("K", *kind.columns.values(), "spikes/neuron")
            parts.append("Fitted anew for other K\n" + table(head, fitted))
        if len(whole.get("by_output", ())) > 1:
            parts.append(table(("output", drawn), list(whole["by_output"].items())))
        errors = [(row[kind.error], row["name"]) for row in self.by_site]
        worst = sorted((pair for pair in errors if pair[0] is not None), reverse=True)[:5]
        if worst:
            names = ", ".join(f"{name} {error:.4f}" for error, name in worst)
            title = kind.columns[kind.error]
            parts.append(f"Sites that add most on their own ({title}): {names}")
        if "without_encoding" in whole:
            parts.append(
                f"Without the identity neurons on analog operands the {drawn} is "
                f"{text(whole['without_encoding'][shown])}"
            )
        accuracy = (
            f"accuracy {whole['accuracy']:.4f} (original {self.original['accuracy']:.4f}), "
            if whole.get("accuracy") is not None
            else ""
        )
        parts.append(
            f"K = {self.report.steps} on {self.images} images: {accuracy}{drawn} "
            f"{text(whole[shown])}, {whole['spikes_per_image']:,.0f} spikes per image "
            f"({whole['spikes_per_neuron']:.3f} per neuron), {whole['spike_driven']:.1%} of the "
            "multiply-accumulates driven by spikes"
        )
        return "\n\n".join(parts)
