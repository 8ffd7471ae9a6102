import ast
import math
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor, nn

import convert
from convert import Conversion, Evaluation, SpikingModel, evaluate
from convert.evaluation.rows import (
    ClassMeasures,
    ClassOriginal,
    OutputMeasures,
    TokenMeasures,
    TokenOriginal,
)
from convert.network.report import OutputError
from convert.pages.verdict import verdict_on


def _with(result: Evaluation, images: int, **measures: Any) -> Evaluation:
    whole = replace(
        result.spiking, measures=ClassMeasures(**{"accuracy": 0.9, "logit_rmse": 0.1} | measures)
    )
    return replace(result, images=images, labelled_images=images, spiking=whole)


@pytest.mark.parametrize(
    ("agreement", "images", "grade"),
    [
        (0.99, 1000, "near"),
        (0.98, 2000, "near"),
        (0.95, 1000, "fair"),
        (0.5, 1000, "far"),
        (1.0, 5, "unknown"),
        (0.2, 5, "far"),
    ],
)
def test_the_grade_heeds_how_many_images_there_were(
    whole: Conversion, agreement: float, images: int, grade: str
) -> None:
    assert whole.result is not None
    found = verdict_on(whole.report, _with(whole.result, images, agreement=agreement), None)
    assert found.grade == grade
    assert any(f"{images:,}" in line for line in found.figures)
    if grade == "unknown":
        assert "5 images can't show it" in found.headline


def test_images_without_a_value_are_said_first(whole: Conversion) -> None:
    assert whole.result is not None
    broken = _with(whole.result, 1000, agreement=0.99, without_prediction=3)
    found = verdict_on(whole.report, broken, None)
    assert found.grade == "far" and found.headline == "Broken: 3 images without a value"


@pytest.mark.parametrize(
    ("error", "grade"), [(0.05, "near"), (0.2, "fair"), (0.9, "far"), (None, "unknown")]
)
def test_errors_of_outputs(
    gated: SpikingModel, small: nn.Module, images: Tensor, error: float | None, grade: str
) -> None:
    result = evaluate(gated, small, images, by_site=0, metric="output", progress=False)
    measures = OutputMeasures(error, {})
    result = replace(result, spiking=replace(result.spiking, measures=measures))
    assert verdict_on(gated.report, result, None).grade == grade
    few = verdict_on(gated.report, replace(result, images=3), None)
    assert few.grade == ("unknown" if grade == "near" else grade)


def test_images_that_have_no_value_in_the_original_either(whole: Conversion) -> None:
    assert whole.result is not None
    broken = _with(whole.result, 1000, agreement=0.99, without_prediction=3)
    original = ClassOriginal(0.9, without_prediction=3)
    found = verdict_on(whole.report, replace(broken, original=original), None)
    assert found.grade == "unknown" and "in the original too" in found.headline


@pytest.mark.parametrize(
    ("ours", "tokens", "grade"),
    [(10.2, 5000, "near"), (10.2, 50, "unknown"), (12.0, 5000, "fair"), (30.0, 50, "far")],
)
def test_a_perplexity_is_compared_with_the_originals(
    whole: Conversion, ours: float, tokens: int, grade: str
) -> None:
    assert whole.result is not None
    result = replace(
        whole.result,
        metric="perplexity",
        shown=replace(whole.result.shown, own=("perplexity",), columns={"perplexity": "perplexity",
                      "agreement": "agreement"}),
        original=TokenOriginal(10.0, tokens),
        spiking=replace(whole.result.spiking, measures=TokenMeasures(ours, 0.1, 0.99)),
    )  # fmt: skip
    found = verdict_on(whole.report, result, None)
    assert found.grade == grade and "original" in found.figures[0]
    assert "on 48 test texts" in found.figures[0] and "same token" in found.figures[1]


def test_a_finding_says_what_to_change(whole: Conversion) -> None:
    assert whole.correlation is not None
    finding = convert.inspect.diagnosis.Finding(
        convert.inspect.diagnosis.Cause.RESOLUTION, ("act",), "Resolution at act.", "refit(snn)"
    )
    found = verdict_on(
        whole.report, whole.result, replace(whole.correlation, findings=(finding, finding))
    )
    assert found.weakness == "Resolution at act." and found.change == "refit(snn)"
    assert len(found.others) == 1


def test_the_worst_poor_site_is_named_with_a_call_that_runs(
    gated: SpikingModel, images: Tensor
) -> None:
    report = replace(gated.report, method="tbpi-exact", sites=[
        replace(gated.report.sites[0], relative_mse=0.2, steps=4),
        replace(gated.report.sites[1], relative_mse=0.4, steps=4, name="act[1]"),
    ])  # fmt: skip
    found = verdict_on(report, None, None)
    assert "act[1]" in found.weakness and "1 other site" in found.weakness
    call = ast.parse(found.change).body[0]
    assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call)
    (steps,) = (word.value for word in call.value.keywords if word.arg == "per_site_steps")
    assert ast.literal_eval(steps) == {"act[[]1]": 6}

    unfitted = verdict_on(replace(report, method="binary"), None, None)
    finer = eval(
        unfitted.change.replace("refit(", "convert.refit("),
        {"convert": convert, "snn": gated, "calibration": images},
    )
    assert finer.report.method == convert.DEFAULT_METHOD


def test_a_network_that_was_not_tested(whole: Conversion) -> None:
    poor = OutputError(5, 48, 0.7)
    report = replace(whole.report, output_errors=[poor])
    found = verdict_on(report, None, None)
    assert found.grade == "far" and "70.0 % of their size" in found.figures[0]
    for none in ([], [OutputError(5, 48, 0.05)]):
        found = verdict_on(replace(whole.report, output_errors=none), None, None)
        assert found.grade == "unknown" and found.headline == "Not tested"
    nan = verdict_on(replace(whole.report, output_errors=[OutputError(5, 4, math.nan)]), None, None)
    assert nan.grade == "far"


def test_without_a_poor_site_the_one_that_changes_the_outputs_most(whole: Conversion) -> None:
    assert whole.result is not None
    report = replace(
        whole.report, sites=[replace(s, relative_mse=0.01) for s in whole.report.sites]
    )
    worst = max(whole.result.by_site, key=lambda row: row["logit_rmse"])
    found = verdict_on(report, whole.result, None)
    assert f"Alone, {worst.name} " in found.weakness
