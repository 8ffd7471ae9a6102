"""The table of three tools' counts: the same where they count the same."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convert import to_spiking

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "peer_counters.py"


def test_figures(noise: Tensor, small_model: nn.Module) -> None:
    pytest.importorskip("neurobench")
    spec = importlib.util.spec_from_file_location("peer_counters", _FILE)
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    snn = to_spiking(small_model, noise, steps=3, method="binary", progress=False)
    found = benchmark.figures(snn, noise[:6], torch.arange(6) % 4)
    here, jelly, bench = found["accumulates"]
    assert jelly == pytest.approx(here) and bench == pytest.approx(here) and here > 0
    assert found["events per neuron"][2] == pytest.approx(found["events per neuron"][0])
    assert found["weights read"][1] == pytest.approx(found["weights read"][0])
    assert found["accuracy"][2] == pytest.approx(found["accuracy"][0])
    lines = list(benchmark.table(found))
    assert len(lines) == 2 + len(found)
    assert all(line.count("|") == 5 for line in lines)
    assert f"| {here:,.0f} |" in next(line for line in lines if line.startswith("| accumulates"))
