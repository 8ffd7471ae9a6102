"""Evaluation: every figure recomputed from the network's own outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convert import InputError, SpikingModel, evaluate, to_spiking
from convert.errors import ConversionError


def test_figures_are_true(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    batches = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    result = evaluate(converted, small, batches, by_site=16, progress=False).to_dict()
    with torch.no_grad():
        original = small(images)
        assert result["images"] == 48
        assert result["original"]["accuracy"] == pytest.approx(39 / 48)
        rows = [(row["step"], row) for row in result["by_step"]]
        assert [step for step, _ in rows] == [1, 2, 3, 4, 5]
        for step, row in rows:
            for corrected, part in ((True, row), (False, row["raw"])):
                with converted.readout(step, corrected=corrected):
                    logits = converted(images)
                agreement = (logits.argmax(1) == original.argmax(1)).double().mean()
                accuracy = (logits.argmax(1) == labels).double().mean()
                assert part["agreement"] == pytest.approx(float(agreement), abs=1.5 / 48)
                assert part["accuracy"] == pytest.approx(float(accuracy), abs=1.5 / 48)
        logits = converted(images)
        centred = original - original.mean(1, keepdim=True)
        rmse = (logits - original).pow(2).mean().sqrt() / centred.pow(2).mean().sqrt()
        assert result["spiking"]["logit_rmse"] == pytest.approx(float(rmse), rel=1e-3)
        with converted.count_spikes() as counts:
            converted(images)
        spikes = sum(counts.values()) / 48
    assert result["spiking"]["spikes_per_image"] == pytest.approx(spikes, rel=1e-3)
    assert result["spiking"]["neurons"] == 2 * 6 * 64
    assert result["spiking"]["spikes_per_neuron"] == pytest.approx(spikes / 768, rel=1e-3)
    last = result["by_step"][-1]
    assert all(last[key] == result["spiking"][key] for key in ("accuracy", "agreement"))
    assert [row["steps"] for row in result["by_K"]] == [3]


def test_errors_of_sites(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    result = evaluate(converted, small, [(images, labels)], by_site=48, progress=False)
    rows = result.to_dict()["by_site"]
    assert [row["name"] for row in rows] == ["silu", "act"]
    # The first site's accumulated error is its own; the last accumulated one is the network's.
    assert rows[0]["accumulated_logit_rmse"] == pytest.approx(rows[0]["logit_rmse"])
    assert rows[-1]["accumulated_logit_rmse"] == pytest.approx(result.spiking.logit_rmse, rel=1e-3)


def test_sites_are_measured_on_the_first_images(
    converted: SpikingModel, small: nn.Module, images: Tensor
) -> None:
    rows = [
        evaluate(converted, small, data, at=[], by_site=count, progress=False).by_site
        for data, count in (([images[:9], images[9:]], 12), (images[:12], 99), (images, 0))
    ]
    for found, expected in zip(rows[0], rows[1], strict=True):
        assert found.name == expected.name
        assert found.own.to_dict() == pytest.approx(expected.own.to_dict(), rel=1e-4)
    assert rows[2] == ()


def test_without_labels_only_agreement(
    converted: SpikingModel, small: nn.Module, images: Tensor
) -> None:
    result = evaluate(converted, small, [images], by_site=0, progress=False)
    with torch.no_grad():
        same = converted(images).argmax(1) == small(images).argmax(1)
    assert result.original.accuracy is None and result.spiking.accuracy is None
    assert result.spiking.agreement == float(same.double().mean())
    assert result.labelled_images == 0 and "labelled_images" not in result.to_dict()
    assert "accuracy 0" not in str(result)


@pytest.mark.parametrize("order", [1, -1])
def test_labels_in_some_batches(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor, order: int
) -> None:
    data = [(images[:12], labels[:12]), (images[12:40], None), images[40:]][::order]
    result = evaluate(converted, small, data, by_site=0, progress=False)
    assert result.original.accuracy == 0.25
    with torch.no_grad():
        right = converted(images[:12]).argmax(1) == labels[:12]
    assert result.spiking.accuracy == float(right.double().mean())
    assert result.to_dict()["labelled_images"] == 12 and result.images == 48
    assert "(original 0.2500) on 12 labelled images" in str(result)
    everywhere = evaluate(converted, small, [(images, labels)], by_site=0, progress=False)
    assert "labelled_images" not in everywhere.to_dict() and everywhere.labelled_images == 48


def test_an_image_without_a_prediction(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    images[[3, 20]] = torch.nan

    class Careful(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return small(x.nan_to_num())

    data = [(images[:9], labels[:9]), (images[9:], labels[9:])]
    both, one = (
        evaluate(converted, model, data, by_site=4, progress=False) for model in (small, Careful())
    )
    assert both.original.without_prediction == 2 and one.original.without_prediction == 0
    with torch.no_grad():
        same = converted(images).argmax(1) == small(images).argmax(1)
        right = small(images).argmax(1) == labels
    kept = [i for i in range(48) if i not in (3, 20)]
    assert both.original.accuracy == float(right[kept].double().sum() / 48)
    for result in (both, one):
        found = result.to_dict()
        assert found["spiking"]["without_prediction"] == 2
        assert found["by_step"][0]["raw"]["without_prediction"] == 2
        assert found["by_K"][0]["without_prediction"] == 2
        assert result.spiking.agreement == float(same[kept].double().sum() / 48)
        assert found["spiking"]["logit_rmse"] is None
        result.to_json(tmp_path / "report.json")
        result.plot(tmp_path / "steps.png")
    assert "not correct: original 2, step 1 2" in str(both)
    assert "not correct: step 1 2" in str(one)


@pytest.mark.parametrize("dense", [False, True])
def test_one_logit(images: Tensor, dense: bool, tmp_path: Path) -> None:
    class Binary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.head(torch.relu(self.first(x)))
            return y if dense else y.mean((2, 3))

    torch.manual_seed(0)
    model = Binary().eval()
    with torch.no_grad():
        model.head.bias -= model(images).median()
        exact = model(images)
    snn = to_spiking(model, images, steps=3, method="binary", progress=False)
    labels = (exact[:, 0] > 0).long()
    labels[:6] = 1 - labels[:6]
    data = [(images[:9], labels[:9]), (images[9:], labels[9:])]
    result = evaluate(snn, model, data, at=[], progress=False)
    with torch.no_grad():
        found = snn(images)
    assert 0.2 < float(labels.double().mean()) < 0.8
    assert result.original.accuracy == 0.875
    same = (found > 0) == (exact > 0)
    assert result.spiking.agreement == pytest.approx(float(same.double().mean()))
    right = (found[:, 0] > 0) == labels
    assert result.spiking.accuracy == pytest.approx(float(right.double().mean()))
    error = (found - exact).norm() / (exact - exact.mean()).norm()
    assert result.spiking.logit_rmse == pytest.approx(float(error), rel=1e-3)
    result.to_json(tmp_path / "report.json")


def test_model_keeps_its_mode(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    small.train()
    evaluate(converted, small, [(images, labels)], by_site=0, progress=False)
    assert small.training


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ([], "no image"),
        ("wrong class", "to 12, but the network has 4 classes"),
        ("wrong shape", "labels are"),
        ("mixed shapes", r"\(20, 2\)"),
        ("words", "text .'cat'"),
        ("wrong size", "has shape"),
    ],
)
def test_bad_data(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor, data, named
) -> None:
    batches = {
        "wrong class": [(images, labels + 9)],
        "wrong shape": [(images, labels[:-1])],
        "mixed shapes": [
            (images[:28], labels[:28]),
            (images[28:], labels[28:, None].expand(20, 2)),
        ],
        "words": [(images, ["cat"] * 48)],
        "wrong size": [(images[:, :, 1:], labels)],
    }.get(data if isinstance(data, str) else "", data)
    with pytest.raises(ConversionError, match=named) as caught:
        evaluate(converted, small, batches, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("by_site", [-1, 2.5, True, "8", None])
def test_a_number_of_images_that_is_none(converted: SpikingModel, by_site: Any) -> None:
    # Known before the data is looked at.
    with pytest.raises(InputError, match=f"by_site= must be a whole number.*found {by_site!r}"):
        evaluate(converted, None, 3, by_site=by_site)


@pytest.mark.parametrize("at", [[0], [6], [-1], [2.0], [True], ["2"], 3, "2", [None]])
def test_steps_that_are_none(converted: SpikingModel, at: Any) -> None:
    with pytest.raises(InputError, match=r"steps 1 to 5|at= must be a list"):
        evaluate(converted, None, 3, at=at)


def test_counts_of_numpy(converted: SpikingModel, images: Tensor) -> None:
    at = iter(np.array([2, 4]))
    result = evaluate(converted, None, images, at=at, by_site=np.int64(3), progress=False)  # type: ignore[arg-type]
    assert json.dumps([row["step"] for row in result.to_dict()["by_step"]]) == "[2, 4, 5]"
    assert result.by_site_images == 3


def test_another_model_is_one_line(converted: SpikingModel, images: Tensor) -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(InputError, match=r"logits: shape \[48, 7\].*\[48, 4\]"):
        evaluate(converted, other, [images], progress=False)


def test_neurons_are_those_of_the_test_images_where_lengths_vary() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.act(self.first(x)).mean(1))

    torch.manual_seed(0)
    model = Tokens().eval()
    calibration = [torch.randn(4, n, 6) for n in (5, 9, 3)]
    snn = to_spiking(model, calibration, steps=4, method="binary", progress=False)
    batches = [torch.randn(3, 40, 6), torch.randn(7, 2, 6)]
    result = evaluate(snn, model, batches, metric="output", by_site=0, progress=False)
    with torch.no_grad(), snn.count_spikes() as spikes:
        for x in batches:
            snn(x)
    neurons = (3 * 40 + 7 * 2) * 8
    assert result.spikes_per_neuron == {"act": spikes["act"] / neurons}
    assert result.spiking.spikes_per_neuron == spikes["act"] / neurons
    assert result.by_step[-1].spikes_per_neuron == spikes["act"] / neurons
    assert result.spiking.neurons == round(neurons / 10)
