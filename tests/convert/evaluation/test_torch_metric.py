"""Metrics of torchmetrics beside our own, and left as they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convert import Evaluation, InputError, SpikingModel, evaluate, to_spiking
from convert.evaluation.function_metric import FunctionMetric
from convert.evaluation.measures import outputs_of
from convert.evaluation.own_metric import Targets
from convert.evaluation.torch_metric import TorchMetric

torchmetrics = pytest.importorskip("torchmetrics", reason="its metrics are evaluated")


def _result(snn: SpikingModel, model: nn.Module | None, data: Any, metric: Any, **given: Any):
    options: dict[str, Any] = {"progress": False, "by_site": 0, **given}
    found: Evaluation = evaluate(snn, model, data, metric=metric, **options)
    return found


def _accuracy() -> Any:
    return torchmetrics.Accuracy(task="multiclass", num_classes=4, average="micro")


def test_equals_our_accuracy(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    data = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    ours = _result(converted, small, data, "accuracy")
    theirs = _result(converted, small, data, _accuracy(), by_site=9)
    name = theirs.metric
    assert name == "MulticlassAccuracy" and ours.metric == "accuracy"
    assert theirs.original[name] == pytest.approx(ours.original.accuracy, abs=1e-6)
    for a, b in zip([*theirs.by_step, *theirs.by_K], [*ours.by_step, *ours.by_K], strict=True):
        assert a[name] == pytest.approx(b.accuracy, abs=1e-6)
        assert a.get("raw", a)[name] == pytest.approx(b.get("raw", b)["accuracy"], abs=1e-6)
    assert theirs.by_step[-1].measures == theirs.spiking.measures
    assert theirs.spiking.relative_error > 0 and name in theirs.by_site[0]
    assert theirs.shown.axis(name) == f"{name} (higher is better)"
    assert name in theirs.shown.shares


def test_the_users_object_stays_as_it_is(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    metric = _accuracy()
    metric.update(torch.eye(4), torch.tensor([0, 1, 2, 0]))
    before = copy.deepcopy(metric.metric_state)
    once, again = (
        _result(converted, small, [(images, labels)], metric, at=[]).spiking for _ in range(2)
    )
    assert once == again
    assert metric.metric_state.keys() == before.keys()
    for name, state in metric.metric_state.items():
        assert torch.equal(torch.as_tensor(state), torch.as_tensor(before[name]))
    assert float(metric.compute()) == 0.75 and metric.update_count == 1


def test_a_collection(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    several = torchmetrics.MetricCollection(
        {"top1": _accuracy(), "f1": torchmetrics.F1Score(task="multiclass", num_classes=4)}
    )
    result = _result(converted, small, [(images, labels)], several, at=[])
    assert result.metric == "MetricCollection" and set(result.original) == {"top1", "f1"}
    assert result.original["top1"] == pytest.approx(39 / 48)


def test_figures_with_the_names_of_the_reports_keys(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    ends = torchmetrics.MinMaxMetric(_accuracy())  # its figures are raw, min and max
    result = _result(converted, small, [(images, labels)], ends, at=[])
    assert set(result.original) == {"MinMaxMetric_raw", "min", "max"}
    assert result.original["MinMaxMetric_raw"] == pytest.approx(39 / 48)


class Detector(nn.Module):
    """So many boxes for each image."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return [{"boxes": torch.rand(int(n), 4), "scores": torch.rand(int(n))} for n in x]


class Boxes(torchmetrics.Metric):
    """How many boxes there are of how many, and a list of them that is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("found", torch.tensor(0.0))
        self.add_state("wanted", torch.tensor(0.0))

    def update(self, outputs: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> None:
        self.found += sum(len(image["boxes"]) for image in outputs)
        self.wanted += sum(len(image["boxes"]) for image in targets)

    def compute(self) -> dict[str, Tensor]:
        return {"share": self.found / self.wanted, "both": torch.stack([self.found, self.wanted])}


def test_detections_come_as_they_are() -> None:
    exact = outputs_of(Detector()(torch.tensor([2, 3])))
    found = outputs_of(Detector()(torch.tensor([2, 1])))
    label = [{"boxes": torch.rand(3, 4)}, {"boxes": torch.rand(3, 4)}]
    for make in (lambda: TorchMetric(Boxes()), lambda: FunctionMetric(_share)):
        original, spiking = make(), make()
        original.add(exact, exact, Targets(label, 2))
        spiking.add(found, exact, Targets(label, 2))
        (name,) = original.original
        assert original.original[name] == pytest.approx(5 / 6)
        assert spiking.values[name] == 0.5
        # Other numbers of boxes have no difference.
        assert original.values.relative_error == 0 and spiking.values.relative_error is None
        assert "have other shapes" in spiking.remarks()[0] and original.measured(exact) is None
    boxes = TorchMetric(Boxes())
    boxes.add(exact, exact, Targets(label, 2))
    assert set(boxes.values) == {"share", "relative_error"}
    assert "both of 'Boxes' are no single numbers" in boxes.remarks()[0]


def _share(outputs: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> float:
    return sum(len(o["boxes"]) for o in outputs) / sum(len(t["boxes"]) for t in targets)


class Numbers(nn.Module):
    """One number for each image."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.body, self.head, self.flat = nn.Linear(64, 8), nn.Linear(8, 1), flat

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(torch.nn.functional.silu(self.body(x.flatten(1))))
        return y[:, 0] if self.flat else y


@pytest.mark.parametrize("flat", [False, True])
def test_regression(images: Tensor, flat: bool) -> None:
    torch.manual_seed(0)
    model = Numbers(flat).eval()
    snn = to_spiking(model, images, steps=4, method="binary", progress=False)
    targets = torch.randn(48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = float((model(images).flatten() - targets).square().mean())
        found = float((snn(images).flatten() - targets).square().mean())
    for label in (targets, targets[:, None], targets.tolist(), {"label": targets}):
        result = _result(snn, model, [(images, label)], torchmetrics.MeanSquaredError(), at=[])
        assert result.original["MeanSquaredError"] == pytest.approx(exact, rel=1e-5)
        assert result.spiking["MeanSquaredError"] == pytest.approx(found, rel=1e-4)
    assert result.shown.axis("MeanSquaredError") == "MeanSquaredError (lower is better)"
    # Without a metric there is no accuracy of numbers.
    plain = _result(snn, model, [(images, targets)], None, at=[])
    assert plain.metric == "output" and "accuracy" not in plain.to_dict()["spiking"]


def test_the_logits_of_several_outputs(images: Tensor, small: nn.Module, labels: Tensor) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scale": x.flatten(1), "logits": self.inner(x)}

    snn = to_spiking(Both().eval(), images, steps=3, method="binary", progress=False)
    result = _result(snn, None, [(images, labels[:, None])], _accuracy(), at=[])
    assert result.original["MulticlassAccuracy"] == pytest.approx(39 / 48)
    assert any("output['logits'] is measured" in note for note in result.notes)


def test_metrics_of_outputs_alone(converted: SpikingModel, images: Tensor) -> None:
    class Mean(torchmetrics.Metric):
        def __init__(self) -> None:
            super().__init__()
            self.add_state("total", torch.tensor(0.0))

        def update(self, outputs: Tensor) -> None:
            self.total += outputs.sum()

        def compute(self) -> Tensor:
            return self.total

    result = _result(converted, None, [images], Mean(), at=[])
    with torch.no_grad():
        assert result.spiking["Mean"] == pytest.approx(float(converted(images).sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("metric", "label", "named"),
    [
        ({}, None, "no labels, which metric='MulticlassAccuracy' needs"),
        (
            {},
            torch.zeros(47).long(),
            r"fails on outputs float32 \[48, 4\] and targets int64 \[47\]",
        ),
        ({}, torch.full((48,), 9), "to 9, but metric 'MulticlassAccuracy' has 4 classes"),
        ({}, ["a"] * 48, "and targets"),
        ({}, (torch.zeros(48), torch.zeros(48)), "2 labels"),
        ({}, {"one": torch.zeros(48), "two": torch.zeros(48)}, "dict with one, two"),
        ({"average": "none"}, torch.zeros(48).long(), r"computes a Tensor \(4,\); give one"),
    ],
)
def test_bad_labels_and_metrics_are_one_line(
    converted: SpikingModel, images: Tensor, metric: dict[str, Any], label: Any, named: str
) -> None:
    made = torchmetrics.Accuracy(task="multiclass", num_classes=4, **metric)
    with pytest.raises(InputError, match=named) as caught:
        _result(converted, None, [(images, label)], made)
    assert "\n" not in str(caught.value)


class Ratio(torchmetrics.Metric):
    """0 / 0."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0))

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> Tensor:
        return self.total / self.total


def test_nan_is_refused_and_classes_are_no_objects(
    converted: SpikingModel, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(InputError, match="no finite Ratio for the original's outputs"):
        _result(converted, None, [(images, labels)], Ratio())
    with pytest.raises(InputError, match="class MeanSquaredError; give an object"):
        _result(converted, None, [images], torchmetrics.MeanSquaredError)
