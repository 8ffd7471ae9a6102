from dataclasses import replace

import pytest
from torch import Tensor, nn

from convert import Conversion, SpikingModel, evaluate
from convert.pages.evaluation_charts import charts_of


def test_a_chart_has_one_meaning_of_its_axis(whole: Conversion) -> None:
    assert whole.result is not None
    charts = charts_of(whole.result)
    assert [chart.title for chart in charts] == [
        "Agreement and accuracy by K", "Agreement and accuracy by step", "Spikes by step"
    ]  # fmt: skip
    by_k, by_step, spikes = charts
    assert {x for line in by_k.lines for x, _ in line.points} == {3, 5}
    assert {x for line in by_step.lines for x, _ in line.points} == {1, 2, 3, 4, 5}
    agreement = dict(by_k.lines[0].points)
    assert agreement[5] == whole.result.spiking["agreement"]
    assert agreement[3] == whole.result.by_K[0]["agreement"]
    assert dict(spikes.lines[0].points)[5] == whole.result.spiking.spikes_per_neuron
    raw = by_step.lines[-1]
    assert "without the mean" in raw.name
    assert dict(raw.points)[1] == whole.result.by_step[0].raw["agreement"]


def test_an_evaluation_without_labels(
    gated: SpikingModel, small: nn.Module, images: Tensor
) -> None:
    found = evaluate(gated, small, images, by_site=0, progress=False)
    titles = [chart.title for chart in charts_of(found)]
    assert titles == ["Agreement by K", "Agreement by step", "Spikes by step"]


@pytest.mark.parametrize("metric", ["output"])
def test_errors_have_an_axis_of_their_own(
    gated: SpikingModel, small: nn.Module, images: Tensor, metric: str
) -> None:
    found = evaluate(gated, small, images, by_site=0, metric=metric, progress=False)
    chart = charts_of(found)[0]
    assert not chart.shares and chart.log and "lower is better" in chart.y_name


def test_one_step_and_one_k_need_no_chart(whole: Conversion) -> None:
    assert whole.result is not None
    assert charts_of(replace(whole.result, by_K=(), by_step=whole.result.by_step[-1:])) == []
