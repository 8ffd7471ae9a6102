"""Pictures of an evaluation and of fits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..common.files import atomic_path
from ..fitting.measure import Fit
from ..network.report import Report
from .metrics import metric_named


class Drawn(Protocol):
    """What is drawn of an `Evaluation`, which imports this module."""

    report: Report
    metric: str
    images: int
    original: dict[str, Any]
    by_step: list[dict[str, Any]]
    by_K: list[dict[str, Any]]


def draw_evaluation(result: Drawn, path: str | os.PathLike[str]) -> None:
    """Accuracy and agreement, or the relative error, over the steps; beside it the spikes.

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
    key = metric_named(result.metric).drawn
    name = metric_named(result.metric).columns[key]
    long_name = (
        f"{name} of the outputs" if result.metric == "output" else f"{name} with the original"
    )
    # None, where a measure has no value, leaves a gap.
    measured, raw = (
        [float("nan") if row[key] is None else row[key] for row in rows]
        for rows in (result.by_step, [row["raw"] for row in result.by_step])
    )
    left.plot(steps, raw, ":", color="#4c78a8", label=f"{name}, raw")
    left.plot(steps, measured, "o-", color="#4c78a8", label=long_name)
    if result.original.get("accuracy") is not None:
        accuracy = [row["accuracy"] for row in result.by_step]
        left.plot(steps, accuracy, "s-", color="#e45756", label="accuracy")
        left.axhline(
            result.original["accuracy"], color="#e45756", lw=1, ls="--", label="original's accuracy"
        )
    if result.by_K:
        fitted = sorted(result.by_K, key=lambda row: row["steps"])
        left.plot(
            [row["steps"] for row in fitted],
            [float("nan") if row[key] is None else row[key] for row in fitted],
            "D",
            color="#54a24b",
            label=f"{name}, fitted for that K",
        )
    left.set(
        xlabel="step t at which every neuron is cut",
        title=f"K = {result.report.steps}, {result.images} images",
    )
    if result.metric == "output":
        left.set(ylabel=name, yscale="log")
        left.legend(loc="upper right", fontsize=8)
    else:
        left.set(ylabel="share of test images", ylim=(0, 1.02))
        left.legend(loc="lower right", fontsize=8)
    right.bar(steps, [row["spikes_per_neuron"] for row in result.by_step], color="#72b7b2")
    right.set(xlabel="step t", ylabel="spikes per neuron and image", title="spikes up to step t")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_fits(
    function: Callable[[Tensor], Tensor],
    fits: Sequence[Fit],
    path: str | os.PathLike[str],
    name: str = "f",
) -> None:
    """The function with every fit above, the errors below.

    Args:
        function: what was fitted.
        fits: from `convert.fitting.measure.measure`.
        path: a picture file; the ending chooses its format.
        name: of the function, for the legend.
    """
    from matplotlib.figure import Figure

    x = np.linspace(fits[0].edges[0], fits[0].edges[-1], 4001)
    exact = function(torch.from_numpy(x)).numpy()
    figure = Figure(figsize=(9.6, 6.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    top.plot(x, exact, color="black", lw=1.2, label=name)
    for index, fit in enumerate(fits):
        y = fit.solution(x)
        label = f"K = {fit.steps}, MSE {fit.mse:.2e}"
        top.plot(x, y, lw=1, color=f"C{index}", label=label)
        bottom.plot(x, y - exact, lw=0.8, color=f"C{index}")
    top.set(ylabel="output")
    top.legend(fontsize=8)
    bottom.set(xlabel="input x", ylabel="error")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
