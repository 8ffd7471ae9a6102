"""What a site's errors and events count for in the network."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import CalibrationError, SpikingModel, load, refit, to_spiking
from convert.assembly.spike_prices import expected_events
from convert.fitting.problem import Solution


class Branches(nn.Module):
    """A linear head over two ReLUs, of 24 and of 8 neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 24), nn.Linear(6, 8)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(self.a(x)), 2 * F.relu(self.b(x))], 1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(3)
    return Branches().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(512, 6, generator=torch.Generator().manual_seed(2))


def _convert(model: nn.Module, x: Tensor, price: float, **settings) -> SpikingModel:
    given = {"steps": 4, "sequential": False, "progress": False} | settings
    return to_spiking(model, x, spike_cost=price, **given)


def _figures(snn: SpikingModel, model: nn.Module, x: Tensor) -> tuple[float, float]:
    """The outputs' relative squared error, and events per neuron."""
    with torch.no_grad(), snn.count_spikes() as spikes:
        error = (snn(x) - model(x)).square().sum() / model(x).square().sum()
    return float(error), sum(spikes.values()) / (32 * len(x))


@pytest.mark.parametrize("gates", [0, 3])
def test_the_price_buys_what_it_says(model: nn.Module, x: Tensor, gates: int) -> None:
    """At each price the network made for it is the best of all, as far as first order goes."""
    prices = (0.0, 0.003, 0.03)
    found = [_figures(_convert(model, x, price, gates=gates), model, x) for price in prices]
    errors, events = zip(*found, strict=True)
    assert errors[0] < errors[1] < errors[2] and events[0] > events[1] > events[2]
    for price, own in zip(prices, found, strict=True):
        costs = [error + price * spent for error, spent in found]
        assert own[0] + price * own[1] <= 1.05 * min(costs)


def test_what_is_expected_is_what_is_sent(model: nn.Module, x: Tensor) -> None:
    for gates in (0, 1):
        snn = _convert(model, x, 0.01, gates=gates)
        _, events = _figures(snn, model, x)
        assert snn.report.expected_events == pytest.approx(events, abs=2e-3)
        assert f"{snn.report.expected_events:.3f} events per neuron are expected" in str(snn.report)


def test_no_price_is_as_before(model: nn.Module, x: Tensor) -> None:
    plain = to_spiking(model, x, steps=4, sequential=False, progress=False)
    free = _convert(model, x, 0.0)
    for a, b in zip(plain.sites.values(), free.sites.values(), strict=True):
        assert torch.equal(a.thresholds, b.thresholds) and torch.equal(a.weights, b.weights)
    assert "spike_cost" not in str(free.report)


def test_the_price_stays_with_the_network(model: nn.Module, x: Tensor, tmp_path: Path) -> None:
    snn = _convert(model, x, 0.01, gates=1)
    snn.save(tmp_path / "net.fsnn")
    back = load(tmp_path / "net.fsnn")
    assert back.report.settings == snn.report.settings and back.report.settings.spike_cost == 0.01
    assert back.report.expected_events == snn.report.expected_events
    again = refit(back, progress=False)
    with torch.no_grad():
        assert torch.equal(again(x), snn(x))
    free = refit(back, spike_cost=0.0, progress=False)
    assert free.report.expected_events > snn.report.expected_events


class Cut(nn.Module):
    """No gradient of the output reaches the ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).argmax(1).float()


def test_a_price_needs_an_effect_on_the_outputs(x: Tensor) -> None:
    with pytest.raises(CalibrationError, match="no gradient of the outputs reaches any site"):
        _convert(Cut().eval(), x, 0.1)


def test_constants_of_gated_intervals_are_events(model: nn.Module, x: Tensor) -> None:
    histogram = next(iter(_convert(model, x, 0.0).histograms.values()))
    none = np.full((2, 1), 1e9)
    above = float(histogram.counts[histogram.centres > 0].sum() / histogram.total)
    for offset, expected in (([0.0, 1.0], above), ([1.0, 0.0], 1 - above), ([1.0, 2.0], 1.0)):
        neuron = Solution(none, 0 * none, 0 * none, np.array(offset), 0.0, "", gates=np.zeros(1))
        assert expected_events(histogram, neuron) == pytest.approx(expected)
