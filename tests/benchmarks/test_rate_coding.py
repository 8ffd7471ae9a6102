"""The table beside rate coding: what the rows of a rate-coded network say."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_FOLDER))
    import rate_coding

    # Grad is off in the benchmark's main(); another test's `forward` is not ours.
    assert Path(sys.modules["forward"].__file__ or "").parent == _FOLDER
    return rate_coding


def test_rows(benchmark: ModuleType, noise: Tensor) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    model, x, y = nn.Sequential(*layers).eval(), noise[:24], torch.zeros(24, dtype=torch.long)
    with torch.no_grad():
        snn = benchmark.rate_network(model, [(noise, y)])
        few, many = benchmark.rate_rows(model, snn, x, y, (2, 200))
        right = float((model(x).argmax(1) == 0).double().mean())
    assert (few.latency, many.latency, many.interval) == (2, 200, 200)
    assert few.agreement < many.agreement and many.agreement > 0.9
    assert abs(many.accuracy - right) <= 0.1
    # A neuron's rate is its value over the largest one: it lies between 0 and 1 spikes a step.
    assert 0 < few.spikes_per_neuron < 2
    assert many.spikes_per_neuron == pytest.approx(100 * few.spikes_per_neuron, rel=0.5)
    assert str(many).startswith("| rate coding | T = 200 | 200 | 200 | ")
    assert str(many).count("|") == 8


def test_the_original_has_no_steps(benchmark: ModuleType) -> None:
    row = benchmark.Row("original", "", None, None, 0.915)
    assert str(row) == "| original |  |  |  | 0.915 |  |  |"
