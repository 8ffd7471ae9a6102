"""Pictures, with what has no value left out."""

from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest

from convert.evaluation.classes import Agreement
from convert.evaluation.output_error import OutputError
from convert.evaluation.plots import draw_steps
from convert.evaluation.rows import (
    ClassMeasures,
    ClassOriginal,
    FittedRow,
    OutputMeasures,
    OutputOriginal,
    Predicted,
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
