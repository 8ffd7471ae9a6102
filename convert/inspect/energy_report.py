"""What a network's operations cost, as values; prints as tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..common.tables import table
from ..errors import InputError
from .energy_costs import ENDS, CostTable

# Of sensitivities, in the printed table.
_SHOWN = 6


@dataclass(frozen=True)
class Range:
    """An energy at the low, the usual and the high ends of all constants.

    Args:
        low, usual, high: in nJ.
    """

    low: float
    usual: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """In nJ."""
        return {"low": self.low, "usual": self.usual, "high": self.high}


@dataclass(frozen=True)
class Row:
    """What one network costs for one image.

    Args:
        name: ``arithmetic``, ``with_memory``, ``quantised_dense`` or ``quantised_zero_skipping``.
        what: of a quantised network ``arithmetic`` or ``with_memory``; else the network,
            ``spiking`` or ``original``.
        numbers: ``float32`` or ``integer``.
        cost: in nJ.
    """

    name: str
    what: str
    numbers: str
    cost: Range


@dataclass(frozen=True)
class Comparison:
    """The spiking network beside one other row.

    Args:
        numbers: of the spiking network, ``float32`` or ``integer``.
        against: ``original``, ``quantised_dense`` or ``quantised_zero_skipping``.
        memory: whether memory is counted, in both.
        same_numbers: whether both compute in the same numbers.
        spiking, other: in nJ.
        break_even: events per neuron at which both would cost the same, at low, usual and high
            costs; None where no number of events does that.
    """

    numbers: str
    against: str
    memory: bool
    same_numbers: bool
    spiking: Range
    other: Range
    break_even: tuple[float | None, float | None, float | None]

    @property
    def costs_more(self) -> tuple[bool, bool, bool]:
        """Whether the spiking network costs more, at low, usual and high costs."""
        ours, theirs = self.spiking, self.other
        return ours.low > theirs.low, ours.usual > theirs.usual, ours.high > theirs.high

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        return {
            "numbers": self.numbers,
            "against": self.against,
            "memory": self.memory,
            "same_numbers": self.same_numbers,
            "spiking": self.spiking.to_dict(),
            "other": self.other.to_dict(),
            "costs_more": dict(zip(ENDS, self.costs_more, strict=True)),
            "break_even": dict(zip(ENDS, self.break_even, strict=True)),
        }


@dataclass(frozen=True)
class Sensitivity:
    """How far one constant or assumption moves the spiking network against the quantised one.

    Args:
        what: the constant's name, or the assumption.
        numbers: of the spiking network.
        low, high: its two ends, in words.
        at_low, usual, at_high: cost of the spiking network over that of the quantised network that
            computes every value, both with memory; everything else as usual.
    """

    what: str
    numbers: str
    low: str
    high: str
    at_low: float
    usual: float
    at_high: float

    @property
    def change(self) -> float:
        """From the low to the high end."""
        return self.at_high - self.at_low

    @property
    def turns(self) -> bool:
        """Whether the cheaper network at one end is the dearer one at the other."""
        return (self.at_low - 1) * (self.at_high - 1) < 0

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        return {
            "what": self.what,
            "numbers": self.numbers,
            "low": self.low,
            "high": self.high,
            "ratio_at_low": self.at_low,
            "ratio_usual": self.usual,
            "ratio_at_high": self.at_high,
            "change": self.change,
            "turns": self.turns,
        }


@dataclass(frozen=True)
class Energy:
    """What a network's operations cost for one image; prints as tables and sentences.

    Args:
        costs: the constants.
        rows: of all networks.
        comparisons: the spiking network beside each other row.
        sensitivities: by constant and assumption, the largest first.
        bits: of a value of the quantised networks.
        events_per_neuron: measured.
        images: over how many the counts are means.
        notes: what the rows assume.
        not_counted: what costs energy and is in no row.
    """

    costs: CostTable
    rows: Sequence[Row]
    comparisons: Sequence[Comparison]
    sensitivities: Sequence[Sensitivity]
    bits: int
    events_per_neuron: float
    images: int
    notes: Sequence[str]
    not_counted: Sequence[str]

    def cost(self, name: str, what: str, numbers: str = "integer") -> Range:
        """One row's energy; the names are those of `Row`."""
        for row in self.rows:
            if (row.name, row.what, row.numbers) == (name, what, numbers):
                return row.cost
        known = ", ".join(f"{r.name} {r.what} {r.numbers}" for r in self.rows)
        raise InputError(f"there is no row {name!r} of {what!r} in {numbers!r}: there are {known}")

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's types; energies in nJ."""
        rows: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        for row in self.rows:
            of_name = rows.setdefault(row.name, {})
            of_name.setdefault(row.what, {})[row.numbers] = row.cost.to_dict()
        return {
            "unit": "nJ",
            **rows,
            "bits": self.bits,
            "images": self.images,
            "events_per_neuron": self.events_per_neuron,
            "comparisons": [c.to_dict() for c in self.comparisons],
            "sensitivity": [s.to_dict() for s in self.sensitivities],
            "notes": list(self.notes),
            "not_counted": list(self.not_counted),
            "costs": {
                "name": self.costs.name,
                "title": self.costs.title,
                "notes": list(self.costs.notes),
                "constants": {c.name: c.to_dict() for c in self.costs.constants.values()},
            },
        }

    def __str__(self) -> str:
        unit, scale = _unit(self.rows)
        parts = [
            _rows(self.rows, scale),
            f"In {unit} for one image, mean of {self.images}, at {self.costs.title}: usual (low to "
            "high). The ends belong together: compare low with low and high with high.",
            _bullets(self.notes),
            self._dearer(unit, scale),
            self._turning(),
            "Not counted:\n" + _bullets(self.not_counted),
        ]
        return "\n\n".join(part for part in parts if part)

    def _dearer(self, unit: str, scale: float) -> str:
        """Where the spiking network costs more, in words."""
        lines = [
            _loss(c, unit, scale, self.events_per_neuron)
            for c in self.comparisons
            if any(c.costs_more)
        ]
        if not lines:
            return "The spiking network costs more than no row, at low, usual or high costs."
        return "Where the spiking network costs more:\n" + _bullets(lines)

    def _turning(self) -> str:
        """Which assumptions matter most, in words and as a table."""
        here = [s for s in self.sensitivities if s.numbers == "integer" and s.change]
        if not here:
            return ""
        turning = [s.what for s in here if s.turns]
        text = (
            f"Which of the two is cheaper turns on: {', '.join(turning)}."
            if turning
            else "No constant or assumption alone turns which of the two is cheaper."
        )
        largest = ", ".join(s.what for s in here[:3])
        rows = [
            (s.what, s.low, s.high, f"{s.at_low:.2f}", f"{s.at_high:.2f}") for s in here[:_SHOWN]
        ]
        return (
            "The spiking network in integers over quantised_dense, with memory, moves most with "
            f"{largest}. {text}\n\n"
            + table(("constant or assumption", "from", "to", "at from", "at to"), rows)
        )


def _unit(rows: Sequence[Row]) -> tuple[str, float]:
    """The unit that suits the largest row, and what an nJ is in it."""
    return ("uJ", 1e-3) if max(row.cost.usual for row in rows) >= 1e4 else ("nJ", 1.0)


def _rows(rows: Sequence[Row], scale: float) -> str:
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        low, usual, high = (_shown(v * scale) for v in row.cost.to_dict().values())
        cells.setdefault((row.name, row.what), {})[row.numbers] = f"{usual} ({low} to {high})"
    return table(
        ("row", "of", "float32", "integer"),
        [(*key, by.get("float32", "-"), by.get("integer", "-")) for key, by in cells.items()],
    )


def _loss(found: Comparison, unit: str, scale: float, measured: float) -> str:
    more = found.costs_more
    end = 1 if more[1] else (2 if more[2] else 0)
    ours, theirs = (list(r.to_dict().values())[end] * scale for r in (found.spiking, found.other))
    counted = "with memory" if found.memory else "arithmetic"
    at = (
        ""
        if all(more)
        else f" at {' and '.join(e for e, m in zip(ENDS, more, strict=True) if m)} costs"
    )
    text = (
        f"{found.numbers}, {counted}: more than {found.against}{at} ({_shown(ours)} against "
        f"{_shown(theirs)} {unit})."
    )
    if not found.same_numbers:
        text += " That compares number formats."
    even = found.break_even[end]
    if even is None:
        return f"{text} No number of events breaks even; measured {measured:.3g} events per neuron."
    return f"{text} Break-even at {even:.3g} events per neuron; measured {measured:.3g}."


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _shown(value: float) -> str:
    """Three digits, whole from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
