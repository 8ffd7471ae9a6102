"""The benchmark of an evaluation site by site: it counts every pass, and only those."""

import importlib.util
from pathlib import Path

import pytest
from torch import nn

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "by_site.py"


def test_passes_are_counted() -> None:
    spec = importlib.util.spec_from_file_location("by_site", _FILE)
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    whole, passes, calls = benchmark.measured(sites=4, images=8, steps=2, seed=0)
    # The original, the same as it was converted, the spiking network, no site, and twice for each.
    assert calls == 4 + 2 * 4
    assert 0 < passes < whole
    clock = benchmark.Clock()
    network = nn.Identity()
    clock.watch(network)
    assert network(3) == 3 and clock.calls == 1
    with pytest.raises(TypeError):
        network()
    assert clock.calls == 2
