"""Events against error: networks of several prices of spikes, as table, dict and picture."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..common.files import atomic_path
from ..common.tables import table
from ..network.report import Report
from .measures import Shown
from .plots import draw_trade_off
from .result import Evaluation
from .rows import PricedRow, plain


@dataclass(frozen=True)
class TradeOff:
    """The trade-off between events per neuron and error.

    Args:
        points: a network each, from the fewest events to the most.
        metric: what was measured, see `evaluate`.
        images: test images.
        shown: how the measures are called in tables and pictures.
    """

    points: tuple[PricedRow, ...]
    metric: str
    images: int
    shown: Shown

    @classmethod
    def of(cls, found: Sequence[Evaluation]) -> TradeOff:
        """The trade-off of networks that were evaluated on the same images, one at least."""
        shown = found[0].shown
        rows = sorted(map(_row, found), key=lambda row: row.spikes_per_neuron)
        points = _marked(rows, shown.error)
        return cls(tuple(points), found[0].metric, found[0].images, shown)

    @property
    def front(self) -> tuple[PricedRow, ...]:
        """The points that no other one dominates."""
        return tuple(row for row in self.points if not row.dominated)

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON's types; a number that isn't finite is None."""
        found: dict[str, Any] = plain(
            {"metric": self.metric, "images": self.images, "points": self.points}
        )
        return found

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_dict` as JSON, whole or not at all."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws error, and agreement where there are classes, over the events into a picture."""
        title = f"price of spikes, {self.images} images"
        draw_trade_off(self.points, path, shown=self.shown, title=title)

    def __str__(self) -> str:
        columns = self.shown.columns
        head = ("events/neuron", *columns.values(), "spike_cost", "K", "gates", "latency", "")
        rows = [
            (
                row.spikes_per_neuron,
                *(row.measures[key] for key in columns),
                f"{row.spike_cost:g}",
                row.steps,
                row.gates,
                row.latency_steps,
                "dominated" if row.dominated else "",
            )
            for row in self.points
        ]
        return f"Events against error on {self.images} images\n{table(head, rows)}"


def _row(found: Evaluation) -> PricedRow:
    report: Report = found.report
    return PricedRow(
        spike_cost=0.0 if report.settings is None else report.settings.spike_cost,
        steps=report.steps,
        gates=max((site.gates for site in report.sites), default=0),
        latency_steps=report.latency_steps,
        measures=found.spiking.measures,
        spikes_per_neuron=found.spiking.spikes_per_neuron,
        dominated=False,
    )


def _marked(rows: Sequence[PricedRow], key: str) -> list[PricedRow]:
    """The rows with those marked that another one dominates.

    Args:
        rows: some networks.
        key: of the error; one without a value counts as infinite.
    """
    spent = [(row.spikes_per_neuron, math.inf if row[key] is None else row[key]) for row in rows]
    return [
        replace(row, dominated=any(a <= x and b <= y and (a, b) != (x, y) for a, b in spent))
        for row, (x, y) in zip(rows, spent, strict=True)
    ]
