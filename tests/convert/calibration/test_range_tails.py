"""Beyond the range that calibration saw: expected there, and how far."""

import numpy as np
import pytest
import torch
from torch import nn

from convert import evaluate, to_spiking
from convert.assembly.fit_targets import problem
from convert.calibration.histogram import Histogram
from convert.calibration.observe import calibrate
from convert.calibration.range_tails import beyond
from convert.capture.capture import capture
from convert.sites.find import find_sites


def _problem(function: nn.Module, x: torch.Tensor, steps: int):
    captured = capture(nn.Sequential(function).eval(), x[:2])
    sites = find_sites(captured.graph_module)
    (histogram,) = calibrate(captured, sites, [x]).histograms.values()
    return problem(sites[0], histogram, steps), histogram


@pytest.mark.parametrize("sign", [1, -1])
def test_as_many_values_lie_beyond_as_expected(sign: int) -> None:
    random = np.random.default_rng(0)
    histogram = Histogram()
    histogram.add(torch.from_numpy(sign * random.exponential(2.0, 5000)))
    edges, weights = beyond(histogram, histogram.counts / histogram.total, top=sign > 0)
    assert (np.diff(edges) * sign > 0).all() and len(edges) == len(weights) + 1
    # The outermost of N values is exceeded by one in N of others, on average over many draws.
    assert 0.1 < weights.sum() * 5000 < 10
    new = sign * random.exponential(2.0, 10_000_000)
    reached = edges[len(edges) // 10]
    expected = weights[: len(edges) // 10].sum()
    low, high = sorted((edges[0], reached))
    assert ((new >= low) & (new < high)).mean() == pytest.approx(expected, rel=0.8)


def test_bounded_values_have_no_tail() -> None:
    histogram = Histogram()
    histogram.add(torch.rand(5000).clamp(max=0.9))
    edges, weights = beyond(histogram, histogram.counts / histogram.total, top=True)
    assert len(weights) == 0 and len(edges) == 1


def test_only_as_far_as_the_neuron_would_notice() -> None:
    x = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    coarse, histogram = _problem(nn.ReLU(), x, 4)
    fine, _ = _problem(nn.ReLU(), x, 12)
    assert coarse.high == pytest.approx(histogram.high, abs=histogram.width)
    assert 1.1 * histogram.high < fine.high < 2.5 * histogram.high
    used = fine.weights > 0
    np.testing.assert_allclose(fine.values[used][2:], fine.centres[used][2:])
    assert fine.weights.sum() == pytest.approx(1.0)
    # Nothing is to be gained where f is flat on either side (of a site 6 wide).
    flat, histogram = _problem(nn.Hardsigmoid(), 4 * x, 12)
    assert flat.high <= 6 + histogram.width and flat.low >= -histogram.width


def test_new_images_saturate_less() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(16 * 64, 10)).eval()
        known, new = torch.randn(16 + 256, 3, 12, 12).split([16, 256])
        snn = to_spiking(model, known, steps=12, progress=False)
        found = evaluate(snn, model, new, by_site=0, at=[12], progress=False)
        # With ranges that end at the largest value seen it is 0.002 to 0.007.
        assert found.spiking["logit_rmse"] < 0.0015


def test_the_reported_error_is_no_artefact_of_the_histogram() -> None:
    x = torch.randn(4096, 128, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 1.3, 1.7):
        model = nn.Sequential(nn.ReLU()).eval()
        snn = to_spiking(model, scale * x, steps=12, sequential=False, progress=False)
        with torch.no_grad():
            real = float((snn(scale * x).double() - model(scale * x).double()).square().mean())
        assert snn.report.sites[0].mse == pytest.approx(real, rel=0.25)
