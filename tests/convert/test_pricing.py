"""Events against error over prices of spikes."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convert
from convert import InputError, SpikingModel, pareto, refitting, to_spiking


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.first(x)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(128, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def snn(model: nn.Module, x: Tensor) -> SpikingModel:
    """Not to be changed."""
    return to_spiking(model, x, steps=3, progress=False)


def test_a_point_for_every_price(
    snn: SpikingModel, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise AssertionError("calibrated again")

    monkeypatch.setattr(refitting, "calibrate", refuse)
    found = pareto(
        snn, iter([x]), calibration=iter([x]), spike_costs=[0.1, 0.0], gates=[0, 1], progress=False
    )
    assert {(p.spike_cost, p.gates) for p in found.points} == {
        (0.1, 0), (0.0, 0), (0.1, 1), (0.0, 1)
    }  # fmt: skip
    events = [p.spikes_per_neuron for p in found.points]
    assert events == sorted(events) and found.images == 128
    assert {p.steps for p in found.points} == {3} and found.front
    text = str(found)
    assert "events/neuron" in text and text.count("dominated") == 4 - len(found.front)
    found.to_json(tmp_path / "curve.json")
    found.plot(tmp_path / "curve.png")
    data = json.loads((tmp_path / "curve.json").read_text())
    assert data == found.to_dict() and len(data["points"]) == 4
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert snn.report.settings.spike_cost == 0.0


def test_a_point_is_what_refit_gives(snn: SpikingModel, x: Tensor) -> None:
    (point,) = pareto(snn, x, calibration=x, spike_costs=[0.05], progress=False).points
    same = convert.refit(snn, x, spike_cost=0.05, progress=False)
    found = convert.evaluate(same, None, x, by_site=0, at=(), progress=False)
    assert point.spikes_per_neuron == found.spiking.spikes_per_neuron
    assert point.measures == found.spiking.measures


def test_a_model_is_converted_first(model: nn.Module, x: Tensor) -> None:
    found = pareto(
        model, x, calibration=x, spike_costs=[0.0], steps=[2, 3], metric="output", progress=False
    )
    assert [p.steps for p in found.points] == [2, 3]
    assert not any(p.dominated for p in found.points)
    with pytest.raises(InputError, match="needs calibration="):
        pareto(model, x, progress=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"spike_costs": []}, "spike_costs must be a list of one or more numbers"),
        ({"spike_costs": 0.1}, "spike_costs must be a list"),
        ({"spike_costs": [0.0, -1.0]}, "spike_cost must be a finite number >= 0, found -1.0"),
        ({"steps": "auto"}, "steps must be a list"),
        ({"gates": [99]}, "gates must be a whole number"),
    ],
)
def test_refused_before_anything_is_fitted(
    snn: SpikingModel, x: Tensor, given: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise AssertionError("fitted")

    monkeypatch.setattr("convert.pricing.refitted", refuse)
    with pytest.raises(InputError, match=message):
        pareto(snn, x, progress=False, **given)
