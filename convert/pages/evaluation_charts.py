"""Which charts an evaluation gives; each has one meaning of its horizontal axis."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.result import Evaluation
from ..evaluation.rows import Row
from .charts import Chart, Line

_BY_K = "Each point is another network: its neurons were fitted for that number of time steps, K."
_BY_STEP = (
    "One network, read out early: every neuron is cut after its first t steps. Low values at the "
    "first steps are usual: the neurons were fitted to be read out after the last one."
)
_RAW = "without the mean of the missing steps"


def charts_of(result: Evaluation) -> list[Chart]:
    """Charts over K first, then over the step."""
    return [*_by_k(result), *_by_step(result), *_spikes(result)]


def _by_k(result: Evaluation) -> list[Chart]:
    if not result.by_K:
        return []
    own: list[tuple[int, Row]] = [(result.report.steps, result.spiking)]
    rows = sorted([*own, *((row.steps, row.measures) for row in result.by_K)], key=lambda r: r[0])
    return [
        _chart(
            result,
            keys,
            "K",
            _BY_K,
            "K, time steps of each neuron",
            rows,
        )
        for keys in _panels(result)
    ]


def _by_step(result: Evaluation) -> list[Chart]:
    rows = [(row.step, row.measures) for row in result.by_step]
    if len(rows) < 2:
        return []
    made = []
    for keys in _panels(result):
        more = []
        if keys[0] == result.shown.drawn:
            name = f"{result.shown.columns[keys[0]]} {_RAW}"
            points = tuple((float(r.step), r.raw.get(keys[0])) for r in result.by_step)
            more.append(Line(name, points, "c"))
        made.append(
            _chart(
                result,
                keys,
                "step",
                _BY_STEP,
                "t, the step after which every neuron is cut",
                rows,
                more,
            )
        )
    return made


def _spikes(result: Evaluation) -> list[Chart]:
    """Spikes of the same network, over the step at which it is cut."""
    points = tuple((float(row.step), row.spikes_per_neuron) for row in result.by_step)
    if len(points) < 2:
        return []
    return [
        Chart(
            "Spikes by step",
            "Spikes of one neuron for one image, mean of all neurons, in the network that is cut "
            "after t steps. A cut network gives later layers other values, so the count need not "
            "grow with t.",
            "t, the step after which every neuron is cut",
            "spikes per neuron",
            (Line("spikes per neuron", points, "d"),),
            shares=False,
            over="step",
        )
    ]


def _panels(result: Evaluation) -> list[list[str]]:
    """Keys that share an axis: all shares; every other figure has a chart of its own."""
    shown = result.shown
    keys = list(dict.fromkeys((shown.drawn, *shown.own)))
    keys = [key for key in keys if _known(result, key)]
    shares = [key for key in keys if key in shown.shares]
    panels = [shares] if shares else []
    return [*panels, *([key] for key in keys if key not in shares)][:4]


def _known(result: Evaluation, key: str) -> bool:
    values = [result.spiking.get(key), *(row.measures.get(key) for row in result.by_step)]
    return any(isinstance(value, int | float) for value in values)


def _named(result: Evaluation, keys: Sequence[str]) -> str:
    text = " and ".join(result.shown.columns[key] for key in keys)
    return text[0].upper() + text[1:]


def _chart(
    result: Evaluation,
    keys: Sequence[str],
    over: str,
    told: str,
    x_name: str,
    rows: Sequence[tuple[int, Row]],
    more: Sequence[Line] = (),
) -> Chart:
    shown = result.shown
    lines = []
    for style, key in zip("abd", keys, strict=False):
        points = tuple((float(x), row.get(key)) for x, row in rows)
        lines.append(Line(_long(shown.columns[key]), points, style))
        exact = result.original.get(key)
        if exact is not None:
            level = tuple((float(x), float(exact)) for x, _ in rows)
            lines.append(Line(f"{shown.columns[key]} of the original", level, "level"))
    shares = all(key in shown.shares for key in keys)
    lower = all(shown.better.get(key) == "lower" for key in keys)
    y_name = "share of test images" if shares else shown.axis(keys[0])
    title = f"{_named(result, keys)} by {over}"
    return Chart(title, told, x_name, y_name, (*lines, *more), shares, lower, over)


def _long(name: str) -> str:
    return f"{name} with the original" if name == "agreement" else name
