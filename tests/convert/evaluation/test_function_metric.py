"""Functions of (outputs, targets) as metrics."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convert import Evaluation, InputError, SpikingModel, evaluate, to_spiking


def _result(snn: SpikingModel, model: nn.Module | None, data: Any, metric: Any, **given: Any):
    options: dict[str, Any] = {"progress": False, "by_site": 0, **given}
    found: Evaluation = evaluate(snn, model, data, metric=metric, **options)
    return found


def mean_gap(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.softmax(1) - torch.nn.functional.one_hot(targets, 4)).abs().mean()


mean_gap.higher_is_better = False  # type: ignore[attr-defined]


def test_batches_count_by_their_images(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    sizes = [5, 43]
    data = list(zip(images.split(sizes), labels.split(sizes), strict=True))
    result = _result(converted, small, data, mean_gap, by_site=8)

    def by_hand(network: nn.Module) -> float:
        with torch.no_grad():
            return sum(len(x) * float(mean_gap(network(x), y)) for x, y in data) / 48

    assert result.metric == "mean_gap" and result.labelled_images == 48
    assert result.original == {"mean_gap": pytest.approx(by_hand(small), rel=1e-5)}
    for row in result.by_step:
        with converted.readout(row.step):
            assert row["mean_gap"] == pytest.approx(by_hand(converted), rel=1e-4)
    with converted.with_steps(3):
        assert result.by_K[0]["mean_gap"] == pytest.approx(by_hand(converted), rel=1e-4)
    assert result.by_step[-1].measures == result.spiking.measures
    assert result.spiking["relative_error"] > 0 and result.by_step[0].raw["mean_gap"] > 0
    # The error of the outputs is that of metric="output".
    other = _result(converted, small, data, "output")
    assert result.spiking.relative_error == other.spiking.relative_error
    assert {"mean_gap", "relative_error", "accumulated_mean_gap"} <= set(result.by_site[0])


def test_large_batches_are_not_cut(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    x, y = images.repeat(6, 1, 1, 1), labels.repeat(6)
    sizes: list[int] = []

    def counted(outputs: Tensor, targets: Tensor) -> int:
        sizes.append(len(outputs))
        return len(targets)

    assert _result(converted, small, [(x, y)], counted, at=[]).spiking["counted"] == 288
    assert set(sizes) == {288}


def test_a_dict_of_numbers_of_any_kind(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    def several(outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        right = outputs.argmax(1) == targets
        return {
            "tensor": right.double().mean(), "array": right.numpy().mean(), "truth": True,
            "int": 3, "one": np.ones((1, 1)),
        }  # fmt: skip

    result = _result(converted, small, [(images, labels)], several, by_site=4)
    assert result.original["tensor"] == result.original["array"] == pytest.approx(39 / 48)
    assert result.original["truth"] == result.original["one"] == 1 and result.original["int"] == 3
    assert result.spiking.tensor == result.spiking["tensor"]
    result.to_json(tmp_path / "report.json")
    result.plot(tmp_path / "steps.png")
    assert "(original 0.8125)" in str(result) and (tmp_path / "steps.png").stat().st_size > 1000


def test_axes_say_what_is_better(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    shown = _result(converted, small, [(images, labels)], mean_gap, at=[]).shown
    assert shown.axis("mean_gap") == "mean_gap (lower is better)"
    assert shown.axis("relative_error") == "relative error (lower is better)"
    plain = _result(converted, small, [(images, labels)], lambda o, t: 1.0, at=[])
    assert plain.metric == "metric" and plain.shown.axis("metric") == "metric"


def test_what_a_function_is_called(converted: SpikingModel, images: Tensor) -> None:
    def scaled(outputs: Tensor, targets: None, by: float) -> float:
        assert targets is None
        return by * float(outputs.mean())

    class Mean(nn.Module):
        def forward(self, outputs: Tensor, targets: Any) -> Tensor:
            return outputs.mean()

    for metric, name in ((partial(scaled, by=2.0), "scaled"), (Mean(), "Mean")):
        assert _result(converted, None, [images], metric, at=[]).metric == name


class Heads(nn.Module):
    """Two outputs in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(64, 8), nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.body(x.flatten(1)))
        return self.one(x), self.two(x)


@pytest.mark.parametrize("form", ["pair", "dict", "dicts"])
def test_several_outputs_and_targets_come_as_they_are(images: Tensor, form: str) -> None:
    torch.manual_seed(0)
    model = Heads().eval()
    snn = to_spiking(model, images, steps=4, method="binary", progress=False)
    y1, y2 = torch.arange(48) % 4, torch.randn(48, 2, generator=torch.Generator().manual_seed(0))
    label: Any = {
        "pair": (y1, y2),
        "dict": {"kind": y1, "place": y2},
        "dicts": [{"kind": a, "place": b} for a, b in zip(y1, y2, strict=True)],
    }[form]

    def both(outputs: tuple[Tensor, Tensor], targets: Any) -> dict[str, Tensor]:
        assert type(outputs) is tuple and type(targets) is type(label)
        if form == "dicts":
            targets = {name: torch.stack([t[name] for t in targets]) for name in targets[0]}
        kind, place = targets.values() if isinstance(targets, dict) else targets
        return {
            "right": (outputs[0].argmax(1) == kind).double().mean(),
            "apart": (outputs[1] - place).abs().mean(),
        }

    result = _result(snn, model, [(images, label)], both, by_site=7)
    with torch.no_grad():
        exact, found = model(images), snn(images)
    assert result.original["right"] == float((exact[0].argmax(1) == y1).double().mean())
    assert result.spiking["apart"] == pytest.approx(float((found[1] - y2).abs().mean()), rel=1e-4)
    assert result.by_site_images == 7 and result.by_site[0]["apart"] > 0
    # Nobody said which of them accuracy is of.
    plain = _result(snn, model, [(images, label)], None, at=[])
    if form == "dict":  # nothing in it is the label
        assert plain.metric == "agreement" and plain.original.accuracy is None
        assert any("output[0] is measured" in note for note in plain.notes)
    else:
        assert plain.metric == "output" and "aren't looked at" in plain.notes[0]
    with pytest.raises(InputError, match="labels") as caught:
        _result(snn, model, [(images, label)], "accuracy", at=[])
    assert "\n" not in str(caught.value)


def _raises(outputs: Tensor, targets: Tensor) -> float:
    raise ValueError("first line\nsecond line")


@pytest.mark.parametrize(
    ("metric", "named"),
    [
        (lambda o, t: math.nan, "gives nan for the original's outputs of batch 1"),
        (lambda o, t: {"a": 1.0, "b": math.inf}, "gives inf as 'b'"),
        (lambda o, t: "good", r"returns a str \('good'\)"),
        (lambda o, t: None, "returns a None; give one number"),
        (lambda o, t: o, r"returns a Tensor \(48, 4\)"),
        (lambda o, t: {"a": [1, 2]}, "returns a list.*as 'a'"),
        (lambda o, t: 1j, "returns a complex"),
        (lambda o, t: {}, "empty dict"),
        (lambda o, t: {1: 2.0}, "key 1"),
        (lambda o, t: {"relative_error": 2.0}, "'relative_error', which the report's rows have"),
        (lambda o, t: {"accumulated_x": 2.0}, "give it another name"),
        (_raises, r"'_raises' fails on outputs float32 \[48, 4\] and targets int64 \[48\]: first"),
        (lambda o: 1.0, r"takes \(o\); give a function of \(outputs, targets\)"),
        (nn.CrossEntropyLoss, r"the class CrossEntropyLoss; give an object of it"),
        (3, "no metric is called 3; choose from"),
    ],
)
def test_bad_functions_are_one_line(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor, metric: Any, named
) -> None:
    with pytest.raises(InputError, match=named) as caught:
        _result(converted, small, [(images, labels)], metric)
    assert "\n" not in str(caught.value)


def test_other_names_in_a_later_batch(converted: SpikingModel, images: Tensor) -> None:
    def changing(outputs: Tensor, targets: None) -> dict[str, float]:
        return {"a" if len(outputs) == 20 else "b": 1.0}

    with pytest.raises(InputError, match="returns b for batch 2, and a for those before"):
        _result(converted, None, [images[:20], images[20:]], changing)


@pytest.mark.parametrize("which", ["outputs", "targets"])
def test_changes_in_place_are_refused(
    converted: SpikingModel, images: Tensor, labels: Tensor, which: str
) -> None:
    def changing(outputs: Tensor, targets: Tensor) -> float:
        {"outputs": outputs, "targets": targets}[which].zero_()
        return 1.0

    with pytest.raises(InputError, match="'changing' changes its outputs or targets in place"):
        _result(converted, None, [(images, labels)], changing)


def test_missing_labels_are_told_where_the_function_fails(
    converted: SpikingModel, images: Tensor
) -> None:
    with pytest.raises(InputError, match="targets missing: the data has no labels"):
        _result(converted, None, [images], mean_gap)


def test_a_readout_without_a_value_is_a_gap(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    with torch.no_grad():
        exact = small(images)

    def strict(outputs: Tensor, targets: Tensor) -> float:
        return 1.0 if torch.allclose(outputs, exact, atol=1e-6) else math.nan

    result = _result(converted, small, [(images, labels)], strict)
    assert result.spiking["strict"] is None and result.spiking["without_value"] == 1
    assert result.original == {"strict": 1.0}
    assert "without a value (NaN or infinity): step 1 1" in str(result)
    result.to_json(tmp_path / "report.json")
    result.plot(tmp_path / "steps.png")


def test_arrays_of_a_dict_that_no_input_has_are_targets(
    converted: SpikingModel, small: nn.Module, images: Tensor
) -> None:
    place = torch.rand(48, 2, generator=torch.Generator().manual_seed(0))
    batch = {"x": images, "place": place, "weight": place[:, 0], "path": ["a"] * 48}

    def told(outputs: Tensor, targets: dict[str, Tensor]) -> float:
        assert set(targets) == {"place", "weight"}
        return float(targets["place"].sum())

    result = _result(converted, small, [batch], told, by_site=6)
    assert result.original["told"] == pytest.approx(float(place.sum()))
    assert result.by_site[0]["told"] == pytest.approx(float(place[:6].sum()))
    # For classes nothing of it is the label, as before.
    assert _result(converted, small, [batch], None, at=[]).metric == "agreement"
