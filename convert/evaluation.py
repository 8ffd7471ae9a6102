"""The result of an evaluation: a table, a dict, a JSON file, a picture."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from .files import atomic_path
from .metrics import Agreement
from .report import Report
from .text import table


@dataclass
class Evaluation:
    """Accuracy, agreement, logit error and spikes of a spiking network against its original.

    Args:
        report: what the conversion did.
        images: test images.
        original: ``{"accuracy"}``; None where the data has no labels, as everywhere below.
        spiking: the whole network: accuracy, agreement, logit_rmse, neurons, spikes_per_image,
            spikes_per_neuron, spike_driven; ``without_encoding`` has the first three with the
            identity neurons on analog operands left out, where there are any.
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
        images: int,
        exact: Agreement,
        readouts: dict[tuple[int, bool], Agreement],
        refits: dict[int, Agreement],
        bare: Agreement | None,
        spikes: dict[Any, dict[str, int]],
        by_site: list[dict[str, Any]],
        by_site_images: int,
        seconds: dict[str, float],
    ) -> Evaluation:
        """Divides what was counted by images and neurons."""
        neurons, read = report.neurons, sorted({step for step, _ in readouts})
        steps = read[-1]

        def measured(agreement: Agreement, counted: dict[str, int]) -> dict[str, Any]:
            return {
                "accuracy": agreement.accuracy,
                "agreement": agreement.agreement,
                "logit_rmse": agreement.logit_rmse,
                "spikes_per_neuron": sum(counted.values()) / (images * neurons),
            }

        by_step = []
        for step in read:
            raw = readouts[step, False]
            row = {"step": step, **measured(readouts[step, True], spikes[step])}
            row["raw"] = {"accuracy": raw.accuracy, "agreement": raw.agreement}
            by_step.append(row)
        whole = {key: by_step[-1][key] for key in ("accuracy", "agreement", "logit_rmse")}
        total = sum(spikes[steps].values()) / images
        whole |= {"neurons": neurons, "spikes_per_image": total}
        whole |= {"spikes_per_neuron": total / neurons, "spike_driven": report.spike_driven}
        if bare is not None:
            names = ("accuracy", "agreement", "logit_rmse")
            whole["without_encoding"] = {name: getattr(bare, name) for name in names}
        return cls(
            report=report,
            images=images,
            original={"accuracy": exact.accuracy},
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
        """Draws accuracy, agreement and spikes over the steps into a picture."""
        from .plots import draw_evaluation

        draw_evaluation(self, path)

    def __str__(self) -> str:
        whole = self.spiking
        columns = ("step", "accuracy", "agreement", "logit RMSE", "raw agreement", "spikes/neuron")
        rows = [
            (
                row["step"],
                row["accuracy"],
                row["agreement"],
                row["logit_rmse"],
                row["raw"]["agreement"],
                row["spikes_per_neuron"],
            )
            for row in self.by_step
        ]
        parts = [
            "Readout after each step (every neuron cut after its first t steps; a layer still "
            "waits for the one before)\n" + table(columns, rows)
        ]
        if self.by_K:
            fitted = [
                (r["steps"], r["accuracy"], r["agreement"], r["logit_rmse"], r["spikes_per_neuron"])
                for r in self.by_K
            ]
            head = ("K", "accuracy", "agreement", "logit RMSE", "spikes/neuron")
            parts.append("Fitted anew for other K\n" + table(head, fitted))
        if self.by_site:
            worst = sorted(self.by_site, key=lambda row: -row["logit_rmse"])[:5]
            names = ", ".join(f"{row['name']} {row['logit_rmse']:.4f}" for row in worst)
            parts.append(f"Sites that add most on their own (logit RMSE): {names}")
        if "without_encoding" in whole:
            parts.append(
                "Without the identity neurons on analog operands the agreement is "
                f"{whole['without_encoding']['agreement']:.4f}"
            )
        accuracy = (
            f"accuracy {whole['accuracy']:.4f} (original {self.original['accuracy']:.4f}), "
            if whole["accuracy"] is not None
            else ""
        )
        parts.append(
            f"K = {self.report.steps} on {self.images} images: {accuracy}agreement "
            f"{whole['agreement']:.4f}, {whole['spikes_per_image']:,.0f} spikes per image "
            f"({whole['spikes_per_neuron']:.3f} per neuron), {whole['spike_driven']:.1%} of the "
            "multiply-accumulates driven by spikes"
        )
        return "\n\n".join(parts)
