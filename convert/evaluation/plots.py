"""Pictures of an evaluation and of fits."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..common.files import atomic_path
from ..fitting.measure import Fit
from .metrics import METRICS, Metric
from .rows import FittedRow, PricedRow, Row, StepRow

_BLUE, _RED, _GREEN, _TEAL = "#4c78a8", "#e45756", "#54a24b", "#72b7b2"


def draw_steps(
    by_step: Sequence[StepRow],
    by_K: Sequence[FittedRow],
    path: str | os.PathLike[str],
    *,
    metric: Metric,
    accuracy: float | None,
    title: str,
) -> None:
    """Accuracy and agreement, or the relative error, over the steps; beside it the spikes.

    Args:
        by_step: readouts, in order.
        by_K: networks fitted anew.
        path: a picture file; the ending chooses its format.
        metric: what was measured.
        accuracy: the original's, None without labels.
        title: above the picture.
    """
    # matplotlib takes half a second to import; only who draws pays for it.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = [row.step for row in by_step]
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    key = METRICS[metric].drawn
    name = METRICS[metric].columns[key]
    errors = metric is Metric.OUTPUT
    long_name = f"{name} of the outputs" if errors else f"{name} with the original"
    left.plot(steps, _curve([r.raw for r in by_step], key), ":", color=_BLUE, label=f"{name}, raw")
    left.plot(steps, _curve(by_step, key), "o-", color=_BLUE, label=long_name)
    if accuracy is not None:
        left.plot(steps, _curve(by_step, "accuracy"), "s-", color=_RED, label="accuracy")
        left.axhline(accuracy, color=_RED, lw=1, ls="--", label="original's accuracy")
    if by_K:
        fitted = sorted(by_K, key=lambda row: row.steps)
        left.plot(
            [row.steps for row in fitted],
            _curve(fitted, key),
            "D",
            color=_GREEN,
            label=f"{name}, fitted for that K",
        )
    left.set(xlabel="step t at which every neuron is cut", title=title)
    if errors:
        positive = any(np.any(line.get_ydata() > 0) for line in left.lines)
        left.set(ylabel=name, yscale="log" if positive else "linear")
    else:
        left.set(ylabel="share of test images", ylim=(0, 1.02))
    left.legend(loc="upper right" if errors else "lower right", fontsize=8)
    right.bar(steps, [row.spikes_per_neuron for row in by_step], color=_TEAL)
    right.set(xlabel="step t", ylabel="spikes per neuron and image", title="spikes up to step t")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_trade_off(
    points: Sequence[PricedRow],
    path: str | os.PathLike[str],
    *,
    metric: Metric,
    title: str,
) -> None:
    """The error over the events, and with classes the agreement, a curve for each K and gates.

    Args:
        points: networks; those that another one beats are hollow.
        path: a picture file; the ending chooses its format.
        metric: what was measured.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    kind = METRICS[metric]
    keys = list(dict.fromkeys((kind.error, kind.drawn)))
    figure = Figure(figsize=(4.8 * len(keys), 4.0), layout="constrained")
    panels = figure.subplots(1, len(keys), squeeze=False)[0]
    curves = list(dict.fromkeys((row.steps, row.gates) for row in points))
    for axes, key in zip(panels, keys, strict=True):
        for index, curve in enumerate(curves):
            own = [row for row in points if (row.steps, row.gates) == curve]
            own = sorted(own, key=lambda row: row.spikes_per_neuron)
            color, x = f"C{index}", [row.spikes_per_neuron for row in own]
            label = f"K = {curve[0]}" + (f", {curve[1]} gates" if curve[1] else "")
            y = _curve(own, key)
            filled = [color if not row.dominated else "none" for row in own]
            axes.plot(x, y, color=color, lw=1, alpha=0.6)
            axes.scatter(x, y, c=filled, edgecolors=color, s=30, label=label, zorder=3)
        front = [row for row in points if not row.dominated]
        front = sorted(front, key=lambda row: row.spikes_per_neuron)
        axes.plot(
            [row.spikes_per_neuron for row in front],
            _curve(front, key),
            color="black",
            lw=0.8,
            ls="--",
            label="not dominated",
        )
        axes.set(xlabel="events per neuron and image", ylabel=kind.columns[key])
        if key == kind.error and any(value > 0 for value in _curve(points, key)):
            axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
        axes.set_axisbelow(True)
    panels[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _curve(rows: Sequence[Row], key: str) -> list[float]:
    """A column; None, where a measure has no value, leaves a gap."""
    return [math.nan if row[key] is None else float(row[key]) for row in rows]


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
        name: of the function, for the legend. Dotted lines are gates.
    """
    from matplotlib.figure import Figure

    x = np.linspace(fits[0].edges[0], fits[0].edges[-1], 4001)
    exact = function(torch.from_numpy(x)).numpy()
    figure = Figure(figsize=(9.6, 6.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    top.plot(x, exact, color="black", lw=1.2, label=name)
    for index, fit in enumerate(fits):
        y = fit.solution(x)
        gates = fit.solution.gates
        tables = f", {len(gates) + 1} tables" if len(gates) else ""
        label = f"K = {fit.steps}{tables}, MSE {fit.mse:.2e}"
        for axes in (top, bottom):
            for gate in gates:
                axes.axvline(gate, color=f"C{index}", lw=0.8, ls=":")
        top.plot(x, y, lw=1, color=f"C{index}", label=label)
        bottom.plot(x, y - exact, lw=0.8, color=f"C{index}")
    top.set(ylabel="output")
    top.legend(fontsize=8)
    bottom.set(xlabel="input x", ylabel="error")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
