"""Pictures, with what has no value left out."""

from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest

from convert.evaluation.classes import Agreement
from convert.evaluation.measures import Shown
from convert.evaluation.output_error import OutputError
from convert.evaluation.plots import draw_steps, draw_trade_off
from convert.evaluation.rows import (
    ClassMeasures,
    ClassOriginal,
    FittedRow,
    OutputMeasures,
    OutputOriginal,
    OwnMeasures,
    OwnOriginal,
    Predicted,
    PricedRow,
    Row,
    StepRow,
)

_CLASSES = Agreement().shown()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures that were saved."""
    saved: list[Any] = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure: Any, *args: Any, **kwargs: Any) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return saved


def _curves(figure: Any) -> dict[str, list[float]]:
    return {
        line.get_label(): np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines
    }


def _steps(measures: list[Row], raw: list[Row]) -> list[StepRow]:
    pairs = zip(measures, raw, strict=True)
    return [StepRow(t + 1, full, 0.1 * t, cut) for t, (full, cut) in enumerate(pairs)]


def test_classes(figures: list[Any], tmp_path: Path) -> None:
    by_step = _steps(
        [ClassMeasures(0.25, 0.5, None), ClassMeasures(0.75, 1.0, 0.1)],
        [Predicted(0.125, 0.25), Predicted(0.75, 1.0)],
    )
    by_K = [
        FittedRow(3, ClassMeasures(0.5, 0.9, 0.1), 0.2, 9),
        FittedRow(1, by_step[0].measures, 0.1, 3),
    ]
    path = tmp_path / "steps.png"
    draw_steps(by_step, by_K, path, shown=_CLASSES, original=ClassOriginal(0.875), title="K = 2")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert _curves(figures[0]) == {
        "agreement, raw": [0.25, 1.0],
        "agreement with the original": [0.5, 1.0],
        "accuracy": [0.25, 0.75],
        "original's accuracy": [0.875, 0.875],
        "agreement, fitted for that K": [0.5, 0.9],
    }
    draw_steps(by_step, [], path, shown=_CLASSES, original=ClassOriginal(None), title="K = 2")
    assert set(_curves(figures[1])) == {"agreement, raw", "agreement with the original"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("errors", [(None, 0.5), (None, None), (0.0, 0.0)])
def test_errors_without_a_value_are_gaps(
    figures: list[Any], tmp_path: Path, errors: tuple[float | None, ...]
) -> None:
    measures: list[Row] = [OutputMeasures(error, {"output": error}) for error in errors]
    by_step, path = _steps(measures, measures), tmp_path / "steps.png"
    draw_steps(
        by_step, [], path, shown=OutputError().shown(), original=OutputOriginal(), title="K = 2"
    )
    curve = _curves(figures[0])["relative error of the outputs"]
    assert [None if np.isnan(y) else y for y in curve] == list(errors)
    assert path.read_bytes()[:4] == b"\x89PNG"


def _own(share: float, loss: float) -> OwnMeasures:
    return OwnMeasures({"share": share, "loss": loss}, 0.5)


def test_figures_of_ones_own_have_their_axes(figures: list[Any], tmp_path: Path) -> None:
    shown = Shown(
        columns={"share": "share", "loss": "loss", "relative_error": "relative error"},
        error="relative_error",
        drawn="relative_error",
        broken="without_value",
        broken_text="",
        own=("share", "loss"),
        shares=frozenset({"share"}),
        better={"loss": "lower", "relative_error": "lower"},
    )
    measures: list[Row] = [_own(0.2, 3.0), _own(0.4, 2.0)]
    by_step, original = _steps(measures, measures), OwnOriginal({"share": 0.5, "loss": 1.0})
    path = tmp_path / "steps.png"
    fitted = [FittedRow(1, measures[0], 0.1, 3)]
    draw_steps(by_step, fitted, path, shown=shown, original=original, title="mine")
    labels = [axes.get_ylabel() for axes in figures[0].axes]
    assert labels == [
        "share", "loss (lower is better)", "relative error (lower is better)",
        "spikes per neuron and image",
    ]  # fmt: skip
    assert _curves(figures[0]) == {
        "share": [0.2, 0.4], "original's share": [0.5, 0.5], "share, fitted for that K": [0.2],
    }  # fmt: skip
    assert figures[0].axes[0].get_ylim() == (0, 1.02)
    assert figures[0].axes[1].get_yscale() == "log"
    priced = [PricedRow(0.0, 4, 0, 4, row, 0.5 + t, False) for t, row in enumerate(measures)]
    draw_trade_off(priced, path, shown=shown, title="mine")
    labels = [axes.get_ylabel() for axes in figures[1].axes]
    assert labels == ["relative error (lower is better)", "share"]
