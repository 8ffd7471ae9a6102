"""Metrics by name, and what users add to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convert
from convert import METRICS, InputError, IoU, Perplexity, SpikingModel, evaluate, register_metric
from convert.evaluation.classes import Accuracy, Agreement
from convert.evaluation.measures import Measure, main_output, outputs_of, own_name
from convert.evaluation.metrics import metric_of
from convert.evaluation.output_error import OutputError


def test_names() -> None:
    kinds = {
        "agreement": Agreement, "classes": Agreement, "accuracy": Accuracy, "output": OutputError,
        "perplexity": Perplexity, "iou": IoU,
    }  # fmt: skip
    assert set(METRICS) == set(kinds)
    for name, kind in kinds.items():
        assert metric_of(name)[0] == name and type(metric_of(name)[1]) is kind
    assert metric_of(IoU(ignore=3))[0] == "iou" and metric_of(Agreement())[0] == "agreement"


@pytest.mark.parametrize("name", ["mse", "", None, ["output"], 3])
def test_unknown_names_list_those_there_are(name: Any) -> None:
    with pytest.raises(InputError, match=r"accuracy, agreement, .*output, perplexity") as caught:
        metric_of(name)
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_like_another(converted: SpikingModel) -> None:
    # Known before the data is looked at.
    with pytest.raises(InputError, match="no metric is called 'acuracy'; did you mean 'accuracy'"):
        evaluate(converted, None, 3, metric="acuracy")


def _outputs(name: str) -> Tensor:
    shapes = {"perplexity": (2, 3, 4), "iou": (2, 3, 4, 4)}
    return torch.randn(shapes.get(name, (3, 3)), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", METRICS)
def test_every_figure_has_a_heading(name: str) -> None:
    outputs = outputs_of(_outputs(name))
    measure = METRICS[name]()
    measure.add(outputs, outputs, None)
    shown = measure.shown()
    assert set(shown.columns) <= set(measure.values)
    assert shown.drawn in measure.raw and shown.error in measure.site
    assert set(shown.own) <= set(measure.original)
    assert set(shown.better) == set(shown.columns) and shown.shares <= set(shown.columns)
    assert type(measure.start()) is type(measure)


class Largest(Agreement):
    """Agreement by another name."""


def test_registered_names(converted: SpikingModel, small: nn.Module, images: Tensor) -> None:
    registered = register_metric("largest", Largest)
    try:
        found = evaluate(
            converted, small, images, metric="largest", by_site=0, at=[], progress=False
        )
        assert found.metric == found.to_dict()["metric"] == "largest"
        with pytest.raises(InputError, match="'largest' is known already"):
            register_metric("largest", Agreement)
    finally:
        registered.remove()
    with pytest.raises(InputError, match="no metric is called 'largest'"):
        metric_of("largest")


def test_what_can_not_be_registered() -> None:
    with pytest.raises(InputError, match="name must be a text, found 3"):
        register_metric(3, Agreement)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give a function that makes a Measure, found a int"):
        register_metric("mine", 3)  # type: ignore[arg-type]
    wrong: Any = dict
    registered = register_metric("mine", wrong)
    try:
        with pytest.raises(InputError, match="registered with what makes a dict and no Measure"):
            metric_of("mine")
    finally:
        registered.remove()
    assert "mine" not in METRICS and issubclass(Agreement, Measure)
    assert {"IoU", "METRICS", "Perplexity", "register_metric"} <= set(convert.__all__)


def test_outputs_have_names() -> None:
    one, two = torch.ones(1), torch.zeros(1, dtype=torch.long)
    found = outputs_of({"a": one, "b": [two, one]})
    assert list(found) == ["output['a']", "output['b'][1]"] and found.result["b"][0] is two
    with pytest.raises(InputError, match="no floating-point"):
        outputs_of(two)


def test_the_main_output() -> None:
    flat, square = torch.ones(3), torch.ones(3, 2)

    def main(result: Any) -> str | None:
        return main_output(outputs_of(result), lambda x: x.dim() > 1)

    assert main((flat, square, square)) == "output[1]"
    assert main({"aux": square, "out": square}) == "output['out']"
    assert main({"out": square, "logits": square}) == "output['logits']"
    assert main({"logits": flat, "x": square}) == "output['x']" and main(flat) is None
    assert own_name("output['logits']") == own_name("output.logits") == "logits"
    assert own_name("output") == own_name("output[0]") == own_name("output['a']['logits']") == ""
