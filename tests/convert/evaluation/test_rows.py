"""Rows are read by name and by key, equal dicts, and become plain JSON."""

import copy
import json
import math
import pickle

import pytest

from convert.evaluation.rows import (
    ClassMeasures,
    ClassSite,
    FittedRow,
    OutputMeasures,
    Predicted,
    SiteErrorRow,
    StepRow,
    Whole,
    plain,
)

_MEASURES = ClassMeasures(0.5, 0.75, 0.1)
_STEP = StepRow(2, _MEASURES, 0.3, Predicted(0.25, 0.5))


def test_a_key_is_the_attribute() -> None:
    assert _STEP["agreement"] == _STEP.agreement == 0.75
    assert _STEP["raw"]["accuracy"] == _STEP.raw.accuracy == 0.25
    assert list(_STEP) == [
        "step", "accuracy", "agreement", "logit_rmse", "spikes_per_neuron", "raw"
    ]  # fmt: skip
    assert len(_STEP) == 6 and "step" in _STEP and "measures" not in _STEP
    assert {**_STEP, "step": 3}["step"] == 3
    assert _STEP.get("accuracy") == 0.5 and _STEP.get("nothing") is None


def test_a_prefix_tells_two_rows_apart() -> None:
    row = SiteErrorRow("act", ClassSite(0.1, 0.9), ClassSite(0.2, 0.8))
    assert row == {
        "name": "act", "logit_rmse": 0.1, "agreement": 0.9,
        "accumulated_logit_rmse": 0.2, "accumulated_agreement": 0.8,
    }  # fmt: skip
    assert row.accumulated_agreement == row.accumulated.agreement == 0.8


def test_what_says_nothing_is_no_key() -> None:
    assert "without_prediction" not in _MEASURES and _MEASURES.without_prediction == 0
    some = ClassMeasures(0.5, 0.75, None, without_prediction=2)
    assert FittedRow(4, some, 0.1, 12)["without_prediction"] == 2
    bare = Whole(_MEASURES, 8, 2.0, 0.25, 1.0)
    assert "without_encoding" not in bare and bare.without_encoding is None
    assert Whole(_MEASURES, 8, 2.0, 0.25, 1.0, without_encoding=some)["without_encoding"] == some


def test_a_missing_name_is_told() -> None:
    with pytest.raises(AttributeError, match="StepRow has no 'agrement'"):
        _ = _STEP.agrement
    with pytest.raises(KeyError, match="agrement"):
        _ = _STEP["agrement"]
    with pytest.raises(AttributeError):
        _STEP.step = 3  # type: ignore[misc]


def test_copied_pickled_and_written() -> None:
    assert pickle.loads(pickle.dumps(_STEP)) == copy.deepcopy(_STEP) == _STEP == dict(_STEP)
    assert FittedRow(2, _MEASURES, 0.3, 6) != _STEP
    written = json.loads(json.dumps(_STEP.to_dict(), allow_nan=False))
    assert written == _STEP and written["raw"] == {"accuracy": 0.25, "agreement": 0.5}


def test_what_is_not_finite_becomes_none() -> None:
    row = OutputMeasures(math.nan, {"a": math.inf, "b": 0.5})
    assert row.to_dict() == {"relative_error": None, "by_output": {"a": None, "b": 0.5}}
    assert plain({"x": (1, -math.inf, [row])})["x"][1:] == [None, [row.to_dict()]]
