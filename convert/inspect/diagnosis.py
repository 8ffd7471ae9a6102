"""Why values of a spiking network are not those of the original, in words."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fitting.methods import DEFAULT

Floats = npt.NDArray[np.float64]

# A site is poor if its squared error is more than this share of the variance of its values, and the
# outputs if their error is more than this share of their size; as in the report.
POOR, _POOR_OUTPUT = 0.1, 0.25
# A site's own squared error that is so much of all of it is its fault.
_MOSTLY = 0.5
# What a remedy aims at, and by how much a step lowers the squared error at least.
_AIM, _STEP = 0.01, 3.0
# No remedy gives a site more steps, and no more gates.
_MOST_STEPS, _GATES = 16, 3
# With fewer steps, more of them help whatever the method.
_ENOUGH = 4
# So many sites are named, and so many get steps of their own.
_NAMED, _LISTED = 4, 8


class Cause(StrEnum):
    """Why the values of a site are off."""

    NONE = ""
    SATURATION = "saturation"
    RARE = "rare inputs"
    RESOLUTION = "resolution"
    BEFORE = "errors from before"


@dataclass(frozen=True, eq=False)
class SiteCorrelation:
    """The values of one site in the spiking network beside those in the original.

    Errors are root mean squares over the standard deviation of the original's values; infinite
    where these don't vary.

    Args:
        name, function: the site and what it computes.
        steps, gates: of the neuron that ran.
        correlation: of the values while the whole network spikes; None where either doesn't vary.
        error: of these.
        correlation_alone, error_alone: the same of this site's neurons on the original's exact
            inputs, without bias correction's stretch: what this site itself does.
        expected: what `error_alone` was on the calibration images; infinite if that isn't known.
        outside: share of the original's inputs outside the calibrated range.
        outside_spiking: the same while the whole network spikes.
        rare: share of the original's inputs that lie where calibration held few values; None
            without its histogram.
        rare_expected: share of the calibration's own values there.
        low, high: the calibrated range.
        lowest, highest: inputs of the original on these images.
        parts: shares of the squared error of `error_alone` by its cause.
        poor_alone: whether the squared error alone is more than a tenth of the variance, or much
            more than on the calibration images because of inputs that these hadn't.
        poor: whether the squared error is more than a tenth of the variance while the whole network
            spikes.
        before: sites whose values reach this one.
        original, spiking: a sample of values ``[P]``.
        beyond: whether the original's input was outside the calibrated range, bool ``[P]``.
    """

    name: str
    function: str
    steps: int
    gates: int
    correlation: float | None
    error: float
    correlation_alone: float | None
    error_alone: float
    expected: float
    outside: float
    outside_spiking: float
    rare: float | None
    rare_expected: float | None
    low: float
    high: float
    lowest: float
    highest: float
    parts: Mapping[Cause, float]
    poor_alone: bool
    poor: bool
    before: frozenset[str]
    original: Floats
    spiking: Floats
    beyond: npt.NDArray[np.bool_]

    @property
    def cause(self) -> Cause:
        """What is wrong here; the site's own fault goes before errors that came to it."""
        mostly = self.poor and self.error_alone**2 >= _MOSTLY * self.error**2
        if self.poor_alone or mostly:
            return self.own
        return Cause.BEFORE if self.poor else Cause.NONE

    @property
    def own(self) -> Cause:
        """What makes most of the error that the site itself makes."""
        unusual = (Cause.SATURATION, Cause.RARE)
        if sum(self.parts[cause] for cause in unusual) <= 0.5:
            return Cause.RESOLUTION
        return max(unusual, key=self.parts.__getitem__)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the sample of values, in JSON's types; None for what is infinite."""
        left = ("before", "parts", "original", "spiking", "beyond")
        row = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left}
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        return finite | {
            "cause": str(self.cause),
            "parts": {str(cause): share for cause, share in self.parts.items()},
        }


@dataclass(frozen=True)
class Finding:
    """One cause, the sites that it is found at, and what to do.

    Args:
        cause: of the errors.
        sites: names, in graph order.
        text: what was found.
        change: a call that mends it; empty where nothing is to be changed.
    """

    cause: Cause
    sites: tuple[str, ...]
    text: str
    change: str = ""

    def __str__(self) -> str:
        return f"{self.text}\n  {self.change}" if self.change else self.text

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        return {
            "cause": str(self.cause),
            "sites": list(self.sites),
            "text": self.text,
            "change": self.change,
        }


@dataclass(frozen=True)
class Case:
    """What a diagnosis is made of.

    Args:
        rows: all sites, in graph order.
        output_error: of the whole network's outputs, over their size.
        images_outside: a sentence on images outside the calibrated range; empty if they aren't.
        steps: K of each site by name or glob, that conversion was asked for.
        gates: the same of gates.
        method: how the neurons were fitted.
    """

    rows: Sequence[SiteCorrelation]
    output_error: float
    images_outside: str = ""
    steps: Mapping[str, int] = field(default_factory=dict)
    gates: Mapping[str, int] = field(default_factory=dict)
    method: str = DEFAULT


def diagnose(case: Case) -> list[Finding]:
    """What is wrong, causes before their effects; empty if nothing is."""
    found = []
    for cause, tell in (
        (Cause.SATURATION, _saturation),
        (Cause.RARE, _rare),
        (Cause.RESOLUTION, _resolution),
    ):
        rows = [row for row in case.rows if row.cause is cause]
        if rows:
            found.append(tell(case, rows))
    guilty = {name for finding in found for name in finding.sites}
    after = [row for row in case.rows if row.cause is Cause.BEFORE]
    caused = [row for row in after if row.before & guilty]
    summed = [row for row in after if not row.before & guilty]
    if summed:
        found.append(_summed(case, summed))
    if caused:
        found.append(_caused(caused, guilty))
    if not found and not case.output_error <= _POOR_OUTPUT:
        found.append(_outputs(case))
    return found


def _saturation(case: Case, rows: Sequence[SiteCorrelation]) -> Finding:
    worst = max(rows, key=lambda row: row.error_alone)
    text = (
        f"Saturation at {_named(rows)}: {_share(worst.outside)} of the inputs of {worst.name} lie "
        f"outside the calibrated range [{worst.low:.4g}, {worst.high:.4g}] (they go from "
        f"{worst.lowest:.4g} to {worst.highest:.4g}), and make "
        f"{worst.parts[Cause.SATURATION]:.0%} of its own error{_beside(worst, Cause.RARE)}."
    )
    if case.images_outside:
        text += f" {case.images_outside}"
    return Finding(
        Cause.SATURATION,
        _names(rows),
        f"{text} Calibrate with images like these:",
        "refit(snn, calibration)  # images like these among them",
    )


def _rare(case: Case, rows: Sequence[SiteCorrelation]) -> Finding:
    worst = max(rows, key=lambda row: row.error_alone)
    text = (
        f"Rare inputs at {_named(rows)}: {_share(worst.rare or 0)} of the inputs of {worst.name} "
        f"lie where calibration held {_share(worst.rare_expected or 0)} of its values; inputs that "
        f"calibration saw too seldom make {worst.parts[Cause.RARE]:.0%} of its own error"
        f"{_beside(worst, Cause.SATURATION)}. "
        "Calibrate with more images, some like these:"
    )
    return Finding(
        Cause.RARE,
        _names(rows),
        text,
        "refit(snn, calibration)  # more images, some like these",
    )


def _resolution(case: Case, rows: Sequence[SiteCorrelation]) -> Finding:
    worst = max(rows, key=lambda row: row.error_alone)
    gates = f" and {worst.gates} gates" if worst.gates else ""
    text = (
        f"Resolution at {_named(rows)}: with K = {worst.steps}{gates}, the neurons of {worst.name} "
        f"have an error of {worst.error_alone:.2f} even on exact inputs"
    )
    if math.isfinite(worst.expected):
        text += f" ({worst.expected:.2f} on the calibration images)"
    words, change = _finer(case, rows)
    return Finding(Cause.RESOLUTION, _names(rows), f"{text}. {words}", change)


def _summed(case: Case, rows: Sequence[SiteCorrelation]) -> Finding:
    """Errors that no poor site made."""
    reached = frozenset(_names(rows)).union(*(row.before for row in rows))
    sources = [row for row in case.rows if row.name in reached]
    largest = _largest(sources)
    words, change = _finer(case, largest)
    text = (
        f"Errors add up: at {_named(rows)} the values are off by up to "
        f"{max(row.error for row in rows):.2f}, though no site by itself is poor. "
        f"{_own_errors(largest)} {words}"
    )
    return Finding(Cause.BEFORE, _names(rows), text, change)


def _caused(rows: Sequence[SiteCorrelation], guilty: set[str]) -> Finding:
    sources = sorted({name for row in rows for name in row.before & guilty})
    from_where = "the sites named above" if len(sources) > 1 else sources[0]
    text = (
        f"Errors from before at {_named(rows)}: most of the error there comes from {from_where}. "
        "Nothing is to be changed there."
    )
    return Finding(Cause.BEFORE, _names(rows), text)


def _outputs(case: Case) -> Finding:
    """Poor outputs of good sites."""
    largest = _largest(case.rows)
    words, change = _finer(case, largest)
    text = (
        f"The outputs are off by {case.output_error:.2f} of their size, though the values of every "
        f"site are near the original's: the last layers make much of small errors. "
        f"{_own_errors(largest)} {words}"
    )
    return Finding(Cause.BEFORE, (), text, change)


def _largest(rows: Sequence[SiteCorrelation]) -> list[SiteCorrelation]:
    """The sites that make the largest errors themselves, in graph order."""
    worst = max(row.error_alone for row in rows)
    high = sorted((r for r in rows if r.error_alone >= 0.7 * worst), key=lambda r: -r.error_alone)
    kept = {row.name for row in high[:_NAMED]}
    return [row for row in rows if row.name in kept]


def _own_errors(rows: Sequence[SiteCorrelation]) -> str:
    told = ", ".join(f"{row.name} {row.error_alone:.2f}" for row in rows)
    return f"The largest errors of their own: {told}."


def _finer(case: Case, rows: Sequence[SiteCorrelation]) -> tuple[str, str]:
    """What gives some sites a finer resolution: words, and a call."""
    coarse = [row for row in rows if row.steps < _ENOUGH]
    if case.method == "binary" and len(coarse) < len(rows):
        # More steps of a table that isn't fitted don't mend it.
        rows, words, parts = coarse, "Fit the neurons", [f"method={DEFAULT!r}"]
    else:
        words, parts = "Give more steps", []
    if len(rows) > _LISTED:
        wanted = max(row.steps + _steps_missing(row.error_alone) for row in rows)
        steps = max(min(wanted, _MOST_STEPS), 1 + min(row.steps for row in rows))
        return f"{words}:", _refit(f"steps={steps}", *parts)
    steps_of, gates_of = dict(case.steps), dict(case.gates)
    for row in rows:
        name = glob.escape(row.name)
        wanted = row.steps + _steps_missing(row.error_alone)
        if wanted > _MOST_STEPS and row.gates < _GATES:
            gates_of.pop(name, None)
            gates_of[name] = _GATES
        else:
            # The last name or glob that fits decides.
            steps_of.pop(name, None)
            steps_of[name] = max(min(wanted, _MOST_STEPS), row.steps + 1)
    if steps_of != dict(case.steps):
        parts.append(f"per_site_steps={steps_of}")
    if gates_of != dict(case.gates):
        parts.append(f"per_site_gates={gates_of}")
    return f"{words}:", _refit(*parts)


def _refit(*settings: str) -> str:
    return f"refit({', '.join(['snn', 'calibration', *settings])})"


def _steps_missing(error: float) -> int:
    if not math.isfinite(error):
        return 4
    return max(2, math.ceil(math.log(max(error**2, _AIM) / _AIM) / math.log(_STEP)))


def _beside(row: SiteCorrelation, other: Cause) -> str:
    """Another cause of a site's error, where it makes a good part of it."""
    share = row.parts[other]
    return f" ({other} {share:.0%})" if share >= 0.1 else ""


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else f"{100 * share:.2g}%"


def _names(rows: Sequence[SiteCorrelation]) -> tuple[str, ...]:
    return tuple(row.name for row in rows)


def _named(rows: Sequence[SiteCorrelation]) -> str:
    """The worst of some sites, in graph order, and how many more there are."""
    worst = sorted(rows, key=lambda row: -row.error)[:_NAMED]
    named = ", ".join(row.name for row in rows if row in worst)
    more = len(rows) - len(worst)
    return named + (f" and {more} more" if more else "")
