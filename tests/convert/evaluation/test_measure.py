"""Evaluation: every figure recomputed from the network's own outputs."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convert import evaluate, to_spiking
from convert.errors import ConversionError


@pytest.fixture
def labels(small: nn.Module, images: Tensor) -> Tensor:
    labels = small(images).argmax(1)
    labels[:9] = (labels[:9] + 1) % 4
    return labels


@pytest.fixture
def snn(small: nn.Module, images: Tensor):
    return to_spiking(small, images, steps=[5, 3], method="binary")


def test_figures_are_true(snn, small: nn.Module, images: Tensor, labels: Tensor) -> None:
    batches = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    result = evaluate(snn, small, batches, by_site=16).to_dict()
    with torch.no_grad():
        original = small(images)
        assert result["images"] == 48
        assert result["original"]["accuracy"] == pytest.approx(39 / 48)
        rows = [(row["step"], row) for row in result["by_step"]]
        assert [step for step, _ in rows] == [1, 2, 3, 4, 5]
        for step, row in rows:
            for corrected, part in ((True, row), (False, row["raw"])):
                with snn.readout(step, corrected=corrected):
                    logits = snn(images)
                agreement = (logits.argmax(1) == original.argmax(1)).double().mean()
                accuracy = (logits.argmax(1) == labels).double().mean()
                assert part["agreement"] == pytest.approx(float(agreement), abs=1.5 / 48)
                assert part["accuracy"] == pytest.approx(float(accuracy), abs=1.5 / 48)
        logits = snn(images)
        centred = original - original.mean(1, keepdim=True)
        rmse = (logits - original).pow(2).mean().sqrt() / centred.pow(2).mean().sqrt()
        assert result["spiking"]["logit_rmse"] == pytest.approx(float(rmse), rel=1e-3)
        with snn.count_spikes() as counts:
            snn(images)
        spikes = sum(counts.values()) / 48
    assert result["spiking"]["spikes_per_image"] == pytest.approx(spikes, rel=1e-3)
    assert result["spiking"]["neurons"] == 2 * 6 * 64
    assert result["spiking"]["spikes_per_neuron"] == pytest.approx(spikes / 768, rel=1e-3)
    last = result["by_step"][-1]
    assert all(last[key] == result["spiking"][key] for key in ("accuracy", "agreement"))
    assert [row["steps"] for row in result["by_K"]] == [3]


def test_errors_of_sites(snn, small: nn.Module, images: Tensor, labels: Tensor) -> None:
    result = evaluate(snn, small, [(images, labels)], by_site=48)
    rows = result.to_dict()["by_site"]
    assert [row["name"] for row in rows] == ["silu", "act"]
    # The first site's accumulated error is its own; the last accumulated one is the network's.
    assert rows[0]["accumulated_logit_rmse"] == pytest.approx(rows[0]["logit_rmse"])
    assert rows[-1]["accumulated_logit_rmse"] == pytest.approx(
        result.to_dict()["spiking"]["logit_rmse"], rel=1e-3
    )


def test_a_broken_site_is_shown_as_the_culprit(
    small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    snn = to_spiking(small, images, steps=8, method="binary")
    snn.sites["act"].weights.mul_(-3)
    rows = evaluate(snn, small, [(images, labels)]).to_dict()["by_site"]
    assert rows[1]["logit_rmse"] > 10 * rows[0]["logit_rmse"]


def test_without_labels_only_agreement(snn, small: nn.Module, images: Tensor) -> None:
    result = evaluate(snn, small, [images]).to_dict()
    assert result["original"]["accuracy"] is None
    assert 0 <= result["spiking"]["agreement"] <= 1


def test_model_keeps_its_mode(snn, small: nn.Module, images: Tensor, labels: Tensor) -> None:
    small.train()
    evaluate(snn, small, [(images, labels)], by_site=0)
    assert small.training


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ([], "no image|yields nothing|no batch"),
        ("wrong class", "class"),
        ("wrong shape", "label"),
        ("wrong size", r"\[|expect"),
    ],
)
def test_bad_data(snn, small: nn.Module, images: Tensor, labels: Tensor, data, named) -> None:
    batches = (
        {
            "wrong class": [(images, labels + 9)],
            "wrong shape": [(images, labels[:-1])],
            "wrong size": [(images[:, :, 1:], labels)],
        }.get(data, data)
        if isinstance(data, str)
        else data
    )
    with pytest.raises(ConversionError, match=named):
        evaluate(snn, small, batches)


def test_writes_json_and_picture(
    snn, small: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    result = evaluate(snn, small, [(images, labels)])
    result.to_json(tmp_path / "deep" / "report.json", model="small")
    result.plot(tmp_path / "deep" / "steps.png")
    found = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert found["model"] == "small"
    assert found["spiking"]["accuracy"] == result.to_dict()["spiking"]["accuracy"]
    assert (tmp_path / "deep" / "steps.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["report.json", "steps.png"]
    assert "agreement" in str(result)
