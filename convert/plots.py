"""Pictures of an evaluation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .files import atomic_path

if TYPE_CHECKING:
    from .evaluation import Evaluation


def draw_evaluation(result: Evaluation, path: str | os.PathLike[str]) -> None:
    """Accuracy and agreement over the steps on the left, spikes on the right.

    Args:
        result: the evaluation.
        path: a picture file; the ending chooses its format.
    """
    # matplotlib takes half a second to import; only who draws pays for it.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = [row["step"] for row in result.by_step]
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    agreement = [row["agreement"] for row in result.by_step]
    raw = [row["raw"]["agreement"] for row in result.by_step]
    left.plot(steps, raw, ":", color="#4c78a8", label="agreement, raw")
    left.plot(steps, agreement, "o-", color="#4c78a8", label="agreement with the original")
    if result.original["accuracy"] is not None:
        accuracy = [row["accuracy"] for row in result.by_step]
        left.plot(steps, accuracy, "s-", color="#e45756", label="accuracy")
        left.axhline(
            result.original["accuracy"], color="#e45756", lw=1, ls="--", label="original's accuracy"
        )
    if result.by_K:
        fitted = sorted(result.by_K, key=lambda row: row["steps"])
        left.plot(
            [row["steps"] for row in fitted],
            [row["agreement"] for row in fitted],
            "D",
            color="#54a24b",
            label="agreement, fitted for that K",
        )
    left.set(
        xlabel="step t at which every neuron is cut",
        ylabel="share of test images",
        ylim=(0, 1.02),
        title=f"K = {result.report.steps}, {result.images} images",
    )
    left.legend(loc="lower right", fontsize=8)
    right.bar(steps, [row["spikes_per_neuron"] for row in result.by_step], color="#72b7b2")
    right.set(xlabel="step t", ylabel="spikes per neuron and image", title="spikes up to step t")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
