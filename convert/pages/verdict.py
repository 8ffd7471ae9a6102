"""What a conversion gave, in words: how near it is to the original, and what is weak."""

from __future__ import annotations

import glob
import math
from dataclasses import dataclass

from ..evaluation.result import Evaluation
from ..evaluation.rows import Row
from ..fitting.methods import DEFAULT
from ..fitting.problem import MOST_STEPS
from ..inspect.correlation import Correlation
from ..inspect.diagnosis import Finding
from ..network.report import Report, SiteRow
from .words import counted, figure, likely_share, percent

# Agreement from which a network is near its original, and from which it is not far.
_NEAR, _FAIR = 0.98, 0.9
# A share that is near must surely be at least this: a few images don't show it.
_SURELY = 0.95
# The same of errors over the size of the outputs, and of a perplexity over the original's.
_NEAR_ERROR, _FAIR_ERROR = 0.1, 0.25
_NEAR_RATIO, _FAIR_RATIO = 1.05, 1.25
# Fewer don't show that a network is near.
_FEW_IMAGES, _FEW_TOKENS = 20, 1000
# Time steps that a poor site is given beside its own; beyond so many it is given gates.
_MORE_STEPS, _MOST_STEPS, _GATES = 2, 16, 3
# With fewer steps, more of them help whatever the method.
_ENOUGH = 4


@dataclass(frozen=True)
class Verdict:
    """The head of a page.

    Args:
        grade: ``near``, ``fair``, ``far`` or ``unknown``.
        headline: the same in a few words.
        figures: what was measured, a sentence each.
        weakness: what is weakest, in words.
        change: a call that mends it; empty where nothing is to be changed.
        others: further findings, if there are any.
    """

    grade: str
    headline: str
    figures: tuple[str, ...]
    weakness: str
    change: str
    others: tuple[Finding, ...] = ()


_HEADLINES = {
    "near": "Near the original",
    "fair": "Noticeably off the original",
    "far": "Far from the original",
    "unknown": "Not compared with the original",
}


def verdict_on(
    report: Report, result: Evaluation | None, correlation: Correlation | None
) -> Verdict:
    """The verdict.

    Args:
        report: of the conversion.
        result: the test, if there was one.
        correlation: the values of every site beside the original's, if they were compared.
    """
    grade, headline = _by_calibration(report) if result is None else _by_test(result)
    told = _calibration_figures(report) if result is None else _test_figures(result)
    findings = correlation.findings if correlation is not None else ()
    if findings:
        first = findings[0]
        return Verdict(grade, headline, told, first.text, first.change, tuple(findings[1:]))
    weakness, change = _weakest(report, result, correlation, grade)
    return Verdict(grade, headline, told, weakness, change)


def _by_test(result: Evaluation) -> tuple[str, str]:
    """The grade by the test images, and how it is called."""
    whole, shown = result.spiking, result.shown
    if whole.get(shown.broken):
        number = counted(whole[shown.broken], _thing(result))
        if result.original.get(shown.broken, 0) >= whole[shown.broken]:
            return "unknown", f"{number} without a value, in the original too"
        return "far", f"Broken: {number} without a value"
    if result.metric == "perplexity":
        return _by_perplexity(whole, result.original)
    value = whole.get(shown.drawn)
    if value is None or not math.isfinite(value):
        return "unknown", "No comparison has a value"
    if shown.drawn == "agreement":
        return _by_agreement(value, result.images)
    if shown.drawn == "relative_error":
        return _by_error(value, result.images)
    return "unknown", f"Measured; how good {shown.columns[shown.drawn]} is depends on your use"


def _by_agreement(value: float, images: int) -> tuple[str, str]:
    if value < _FAIR:
        return "far", _HEADLINES["far"]
    if value < _NEAR:
        return "fair", _HEADLINES["fair"]
    if likely_share(value, images)[0] < _SURELY:
        return _seemingly(images, "image")
    return "near", _HEADLINES["near"]


def _seemingly(number: int, thing: str) -> tuple[str, str]:
    return "unknown", f"It looks near the original, but {counted(number, thing)} can't show it"


def _by_error(value: float, images: int) -> tuple[str, str]:
    if value <= _NEAR_ERROR and images < _FEW_IMAGES:
        return _seemingly(images, "image")
    grade = "near" if value <= _NEAR_ERROR else "fair" if value <= _FAIR_ERROR else "far"
    return grade, _HEADLINES[grade]


def _by_perplexity(whole: Row, original: Row) -> tuple[str, str]:
    ours, theirs = whole.get("perplexity"), original.get("perplexity")
    if not ours or not theirs:
        return "unknown", _HEADLINES["unknown"]
    ratio = ours / theirs
    if ratio <= _NEAR_RATIO and original["tokens"] < _FEW_TOKENS:
        return _seemingly(original["tokens"], "token")
    grade = "near" if ratio <= _NEAR_RATIO else "fair" if ratio <= _FAIR_RATIO else "far"
    return grade, _HEADLINES[grade]


def _by_calibration(report: Report) -> tuple[str, str]:
    own = [row for row in report.output_errors if row.steps == report.steps]
    if own and not own[0].error <= _FAIR_ERROR:
        return "far", f"{_HEADLINES['far']} on the calibration images"
    return "unknown", "Not tested"


def _test_figures(result: Evaluation) -> tuple[str, ...]:
    whole, shown = result.spiking, result.shown
    told = []
    for key in shown.own:
        theirs = result.original.get(key)
        if theirs is None and whole.get(key) is None:
            continue
        write = percent if key in shown.shares else figure
        number = result.labelled_images if key == "accuracy" else result.images
        told.append(
            f"{shown.columns[key].capitalize()} on {counted(number, f'test {_thing(result)}')}: "
            f"{write(whole.get(key))} spiking, {write(theirs)} original."
        )
    value = whole.get(shown.drawn)
    if shown.drawn == "agreement" and value is not None:
        told.append(_agreement(value, result))
    elif value is not None:
        told.append(
            f"{shown.columns[shown.drawn].capitalize()} on {counted(result.images, 'test image')}: "
            f"{figure(value)}."
        )
    return tuple(told) or ("The test gave no figure that has a value.",)


def _agreement(value: float, result: Evaluation) -> str:
    if result.metric == "perplexity":
        return f"Agreement: both networks find the same token most likely at {percent(value)}."
    if result.metric == "iou":
        return f"Agreement: {percent(value)} of the pixels get the same class from both networks."
    low, high = likely_share(value, result.images)
    return (
        f"Agreement: {percent(value)} of the {counted(result.images, 'image')} get the same class "
        f"from both networks; of many more images it would likely be {percent(low)} to "
        f"{percent(high)}."
    )


def _thing(result: Evaluation) -> str:
    """What the test is made of."""
    return "text" if result.metric == "perplexity" else "image"


def _calibration_figures(report: Report) -> tuple[str, ...]:
    told = [
        f"The outputs are off by {percent(row.error)} of their size on "
        f"{counted(row.images, 'calibration image')}; no test images were given."
        for row in report.output_errors
        if row.steps == report.steps
    ]
    return tuple(told) or ("No test images were given, so accuracy is not known.",)


def _weakest(
    report: Report, result: Evaluation | None, correlation: Correlation | None, grade: str
) -> tuple[str, str]:
    """What is weakest where no finding says so, and what to change."""
    poor = [site for site in report.sites if site.poor]
    if poor:
        worst = max(poor, key=lambda site: site.relative_mse)
        text = (
            f"The neurons of {worst.name} ({worst.function}) fit their function poorly: their "
            f"squared error is {percent(worst.relative_mse)} of its variance."
        )
        if len(poor) > 1:
            text += f" {counted(len(poor) - 1, 'other site')} fit poorly, too."
        return text, _finer(report, worst)
    if correlation is not None:
        worst_row = max(correlation.sites, key=lambda row: row.error)
        text = (
            f"No site is poor. The largest error of a site is {worst_row.error:.2f} of its values' "
            f"standard deviation, at {worst_row.name} ({counted(correlation.images, 'image')})."
        )
        return text, ""
    named = _largest_error(result)
    site = next((site for site in report.sites if site.name == named), None)
    if site is None:
        site = max(report.sites, key=lambda row: row.relative_mse, default=None)
        if site is None:
            return "The network has no site: nothing spikes.", ""
        text = f"The least exact neurons are those of {site.name} ({site.function})."
    else:
        text = f"Alone, {site.name} ({site.function}) changes the outputs most."
    return text, _finer(report, site) if grade in ("fair", "far") else ""


def _largest_error(result: Evaluation | None) -> str:
    """The site whose neurons alone change the outputs most."""
    if result is None or not result.by_site:
        return ""
    key = result.shown.error

    def error(index: int) -> float:
        value = result.by_site[index].own.get(key)
        return math.inf if value is None else float(value)

    return result.by_site[max(range(len(result.by_site)), key=error)].name


def _finer(report: Report, site: SiteRow) -> str:
    """A call that gives a site's neurons a finer resolution."""
    if report.method == "binary" and site.steps >= _ENOUGH:
        # More steps of a table that isn't fitted don't mend it.
        return f"refit(snn, calibration, method={DEFAULT!r})"
    name, settings = glob.escape(site.name), report.settings
    if site.steps + _MORE_STEPS > _MOST_STEPS and not site.gates:
        gates = {} if settings is None else dict(settings.per_site_gates)
        gates.pop(name, None)
        return f"refit(snn, calibration, per_site_gates={gates | {name: _GATES}})"
    steps = {} if settings is None else dict(settings.per_site_steps)
    # The last name or glob that fits decides.
    steps.pop(name, None)
    wanted = min(site.steps + _MORE_STEPS, MOST_STEPS)
    return f"refit(snn, calibration, per_site_steps={steps | {name: wanted}})"
