"""Pictures of an evaluation and of fits."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.files import atomic_path
from ..fitting.measure import Fit
from .measures import Shown
from .rows import FittedRow, PricedRow, Row, StepRow

_BLUE, _RED, _GREEN, _TEAL = "#4c78a8", "#e45756", "#54a24b", "#72b7b2"
# Figures of one metric that a picture shows, and their colours.
_MOST_CURVES = 4
_COLORS = (_RED, "#f58518", "#b279a2", "#9d755d")


def draw_steps(
    by_step: Sequence[StepRow],
    by_K: Sequence[FittedRow],
    path: str | os.PathLike[str],
    *,
    shown: Shown,
    original: Row,
    title: str,
) -> None:
    """The measures over the steps, those of the original beside them; and the spikes.

    Shares go into one picture: accuracy and agreement. Each other figure that the original has as
    well goes into one of its own.

    Args:
        by_step: readouts, in order.
        by_K: networks fitted anew.
        path: a picture file; the ending chooses its format.
        shown: how the measures are called.
        original: its figures; None for those without a value.
        title: above the picture.
    """
    # matplotlib takes half a second to import; only who draws pays for it.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    own = [key for key in shown.own if original.get(key) is not None][:_MOST_CURVES]
    apart = [key for key in own if key not in shown.shares or shown.drawn not in shown.shares]
    shares = [key for key in apart if key in shown.shares]
    panels = [shares] if shares else []
    panels += [[key] for key in apart if key not in shares]
    panels.append([key for key in own if key not in apart])
    width = 6.4 * len(panels) + 3.2
    figure = Figure(figsize=(width, 4.0), layout="constrained")
    *lefts, right = figure.subplots(1, len(panels) + 1, width_ratios=(2,) * len(panels) + (1,))
    curves = _Curves(by_step, sorted(by_K, key=lambda row: row.steps), original, shown)
    for index, (axes, keys) in enumerate(zip(lefts, panels, strict=True)):
        compared = index == len(panels) - 1
        curves.draw(axes, keys, compared=compared)
        axes.set(xlabel="step t at which every neuron is cut", title="" if index else title)
    steps = [row.step for row in by_step]
    right.bar(steps, [row.spikes_per_neuron for row in by_step], color=_TEAL)
    right.set(xlabel="step t", ylabel="spikes per neuron and image", title="spikes up to step t")
    for axes in (*lefts, right):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


@dataclass(frozen=True)
class _Curves:
    """The rows of which curves are drawn, and how they are called."""

    by_step: Sequence[StepRow]
    by_K: Sequence[FittedRow]
    original: Row
    shown: Shown

    def draw(self, axes: Any, own: Sequence[str], *, compared: bool) -> None:
        """Draws figures that the original has, too, and the comparison with it if asked for."""
        shown, steps = self.shown, [row.step for row in self.by_step]
        drawn = [shown.drawn] if compared else []
        if compared:
            self._draw_compared(axes, steps)
        for color, key in zip(_COLORS, own, strict=False):
            name = shown.columns[key]
            axes.plot(steps, _curve(self.by_step, key), "s-", color=color, label=name)
            line = float(self.original[key])
            axes.axhline(line, color=color, lw=1, ls="--", label=f"original's {name}")
            if not compared and self.by_K:
                self._draw_fitted(axes, key, color)
        keys = [*drawn, *own]
        shares = all(key in shown.shares for key in keys)
        lower = all(shown.better.get(key) == "lower" for key in keys)
        if shares:
            label = "share of test images" if shown.own == ("accuracy",) else "share"
            axes.set(ylabel=label, ylim=(0, 1.02))
        else:
            positive = any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes.lines)
            label = shown.axis(keys[0]) if len(keys) == 1 else ", ".join(map(shown.axis, keys))
            axes.set(ylabel=label, yscale="log" if lower and positive else "linear")
        axes.legend(loc="upper right" if lower else "lower right", fontsize=8)

    def _draw_compared(self, axes: Any, steps: Sequence[int]) -> None:
        """Draws agreement, or the error of the outputs."""
        key = self.shown.drawn
        name = self.shown.columns[key]
        error = self.shown.better.get(key) == "lower"
        long_name = f"{name} of the outputs" if error else f"{name} with the original"
        raw = [row.raw for row in self.by_step]
        axes.plot(steps, _curve(raw, key), ":", color=_BLUE, label=f"{name}, raw")
        axes.plot(steps, _curve(self.by_step, key), "o-", color=_BLUE, label=long_name)
        if self.by_K:
            self._draw_fitted(axes, key, _GREEN)

    def _draw_fitted(self, axes: Any, key: str, color: str) -> None:
        """Draws a point for each network that was fitted anew."""
        x, y = [row.steps for row in self.by_K], _curve(self.by_K, key)
        label = f"{self.shown.columns[key]}, fitted for that K"
        axes.plot(x, y, "D", color=color, label=label)


def draw_trade_off(
    points: Sequence[PricedRow],
    path: str | os.PathLike[str],
    *,
    shown: Shown,
    title: str,
) -> None:
    """The error over the events, and with classes the agreement, a curve for each K and gates.

    Args:
        points: networks; those that another one beats are hollow.
        path: a picture file; the ending chooses its format.
        shown: how the measures are called.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    # Of classes the agreement stands for the accuracy.
    classes = shown.own == ("accuracy",) and shown.drawn in shown.shares
    figures = [] if classes else shown.own[:1]
    keys = list(dict.fromkeys((shown.error, shown.drawn, *figures)))
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
        axes.set(xlabel="events per neuron and image", ylabel=shown.axis(key))
        if key == shown.error and any(value > 0 for value in _curve(points, key)):
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
