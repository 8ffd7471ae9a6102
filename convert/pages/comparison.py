"""Two conversions side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .charts import Chart, Line
from .contents import Contents, SiteLine, cost_text
from .words import figure, percent


@dataclass(frozen=True)
class Difference:
    """One row of a table: what, and its value of each network."""

    name: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether the two are written differently."""
        return self.first != self.second


@dataclass(frozen=True)
class SitePair:
    """A site of either network, or of both; None where one has no site of this name."""

    name: str
    first: SiteLine | None
    second: SiteLine | None


@dataclass(frozen=True)
class ComparisonPage:
    """Everything on the page of two networks.

    Args:
        first, second: of each.
        figures: what was measured.
        settings: what conversion was asked for, where the two differ.
        energy: rows in integers, with their unit; empty if one has none.
        charts: of the same figures, drawn together.
        sites: by name, in the first network's order; those of the second alone come last.
        notes: what speaks against comparing them.
    """

    first: Contents
    second: Contents
    figures: tuple[Difference, ...]
    settings: tuple[Difference, ...]
    energy: tuple[Difference, ...]
    charts: tuple[Chart, ...]
    sites: tuple[SitePair, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Both names."""
        return f"{self.first.title} and {self.second.title}"


def compared(first: Contents, second: Contents) -> ComparisonPage:
    """What stands on the page of two networks."""
    return ComparisonPage(
        first,
        second,
        tuple(_figures(first, second)),
        tuple(_settings(first, second)),
        tuple(_energy(first, second)),
        tuple(_charts(first, second)),
        tuple(_sites(first, second)),
        tuple(_notes(first, second)),
    )


def _figures(first: Contents, second: Contents) -> list[Difference]:
    both = (first, second)
    rows = [
        _row("sites", both, lambda c: str(len(c.sites))),
        _row("neurons for one image", both, lambda c: f"{c.report['neurons']:,}"),
        _row("latency in time steps", both, lambda c: f"{c.report['latency_steps']:,}"),
        _row(
            "multiply-accumulates driven by spikes", both,
            lambda c: percent(c.report["spike_driven"]),
        ),
        _row(
            "remaining nonlinear operations", both,
            lambda c: str(sum(r["count"] for r in c.report["remaining"])),
        ),
    ]  # fmt: skip
    if first.given.result is None and second.given.result is None:
        return rows
    rows.insert(0, _row("test images", both, lambda c: _measured(c, lambda r: f"{r.images:,}")))
    keys: dict[str, str] = {}
    for each in both:
        if each.given.result is not None:
            keys |= each.given.result.shown.columns
    for key, name in keys.items():
        rows.append(_row(name, both, lambda c, key=key: _measured(c, lambda r: _value(r, key))))
        rows.append(
            _row(
                f"{name} of the original", both,
                lambda c, key=key: _measured(c, lambda r: _value(r, key, of="original")),
            )
        )  # fmt: skip
    rows.append(
        _row(
            "spikes per neuron", both,
            lambda c: _measured(c, lambda r: figure(r.spiking.spikes_per_neuron)),
        )
    )  # fmt: skip
    return [row for row in rows if {row.first, row.second} != {"–"}]


def _row(name: str, both: tuple[Contents, Contents], write: Callable[..., str]) -> Difference:
    return Difference(name, write(both[0]), write(both[1]))


def _measured(contents: Contents, write: Callable[[Any], str]) -> str:
    return "–" if contents.given.result is None else write(contents.given.result)


def _value(result: Any, key: str, of: str = "spiking") -> str:
    value = getattr(result, of).get(key)
    if not isinstance(value, int | float):
        return "–"
    return percent(value) if key in result.shown.shares else figure(value)


def _settings(first: Contents, second: Contents) -> list[Difference]:
    ours, theirs = first.settings, second.settings
    names = list(dict.fromkeys([*ours, *theirs]))
    rows = [Difference(name, _told(ours, name), _told(theirs, name)) for name in names]
    return [row for row in rows if row.differs]


def _told(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "not known"


def _energy(first: Contents, second: Contents) -> list[Difference]:
    if first.energy is None or second.energy is None:
        return []
    theirs = {line.name: line for line in second.energy.lines}
    units = first.energy.unit, second.energy.unit
    return [
        Difference(
            line.name,
            f"{cost_text(line.integer)} {units[0]}",
            f"{cost_text(theirs[line.name].integer)} {units[1]}",
        )
        for line in first.energy.lines
        if line.name in theirs and line.integer is not None
        and theirs[line.name].integer is not None
    ]  # fmt: skip


def _charts(first: Contents, second: Contents) -> list[Chart]:
    """The charts that both have, each with the lines of both."""
    theirs = {(chart.over, line.name): line for chart in second.charts for line in chart.lines}
    made = []
    for chart in first.charts:
        for line in chart.lines:
            other = theirs.get((chart.over, line.name))
            if other is None or line.style == "level":
                continue
            lines = (Line(first.title, line.points, "a"), Line(second.title, other.points, "b"))
            title = f"{line.name[0].upper()}{line.name[1:]} by {chart.over}"
            made.append(replace(chart, title=title, lines=lines))
    return made


def _sites(first: Contents, second: Contents) -> list[SitePair]:
    theirs = {line.row.name: line for line in second.sites}
    pairs = [SitePair(s.row.name, s, theirs.pop(s.row.name, None)) for s in first.sites]
    return [*pairs, *(SitePair(name, None, line) for name, line in theirs.items())]


def _notes(first: Contents, second: Contents) -> list[str]:
    notes = []
    ours, theirs = first.given.result, second.given.result
    if ours is not None and theirs is not None:
        if ours.images != theirs.images:
            notes.append(
                f"They were tested on {ours.images:,} and {theirs.images:,} images: small "
                "differences may come from that."
            )
        if ours.metric != theirs.metric:
            notes.append(f"Different things were measured: {ours.metric} and {theirs.metric}.")
        elif ours.original != theirs.original:
            notes.append(
                "The original's figures differ: they were tested on other images, or are not the "
                "same network."
            )
    elif ours is not None or theirs is not None:
        name = second.title if theirs is None else first.title
        notes.append(f"{name} was not tested.")
    names = [{line.row.name for line in c.sites} for c in (first, second)]
    if not names[0] & names[1]:
        notes.append("The two have no site of the same name: they are different networks.")
    return notes
