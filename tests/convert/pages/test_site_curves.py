from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convert import Conversion, SpikingModel, to_spiking
from convert.pages.site_curves import site_curves


def _with_tail(value: float) -> Tensor:
    """Inputs near 0, and one far away."""
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    x[0, 0] = value
    return x


def test_a_curve_is_that_of_the_function_and_of_the_neuron(gated: SpikingModel) -> None:
    curves = site_curves(gated)
    assert [curve.row.name for curve in curves] == [row.name for row in gated.report.sites]
    for curve in curves:
        x = torch.from_numpy(curve.x).float()
        with torch.no_grad():
            fitted = gated.sites[curve.row.name](x)
            exact = nn.functional.silu(x) if "sigmoid" in curve.row.function else x.relu()
        torch.testing.assert_close(torch.from_numpy(curve.fitted).float(), fitted)
        torch.testing.assert_close(torch.from_numpy(curve.exact).float(), exact)
        assert curve.x[0] == curve.row.low and curve.x[-1] == curve.row.high
        assert curve.shares.sum() == pytest.approx(1)


def test_the_events_of_the_steps_are_those_that_the_report_expects(
    small: nn.Module, images: Tensor
) -> None:
    snn = to_spiking(
        small, images, steps=4, gates=1, method="binary", sequential=False, progress=False
    )
    for curve in site_curves(snn):
        assert len(curve.step_shares) == 4
        expected = sum(curve.step_shares) + curve.gate_share
        assert expected == pytest.approx(curve.row.events, rel=1e-3)


def test_a_value_far_away_does_not_squeeze_the_curve() -> None:
    x = _with_tail(500.0)
    snn = to_spiking(nn.Sequential(nn.ReLU(), nn.Linear(8, 2)).eval(), x, steps=4,
                     method="binary", progress=False)  # fmt: skip
    (curve,) = site_curves(snn)
    assert not curve.whole and curve.row.high == 500 and curve.x[-1] < 6
    # All inputs but the one are in sight.
    assert 0.998 < curve.shares.sum() < 1


def test_a_constant_input_has_a_curve(gated: SpikingModel) -> None:
    snn = to_spiking(nn.Sequential(nn.Linear(3, 3), nn.SiLU()).eval(), torch.zeros(8, 3), steps=2,
                     method="binary", progress=False)  # fmt: skip
    (curve,) = site_curves(snn)
    assert np.isfinite(curve.exact).all() and curve.x[0] < curve.x[-1]


def test_a_network_without_histograms_has_curves_alone(whole: Conversion, images: Tensor) -> None:
    import copy

    snn = copy.deepcopy(whole.snn)
    snn.histograms = {}
    for curve in site_curves(snn):
        assert len(curve.fitted) and not len(curve.shares) and curve.step_shares == ()
    assert replace(whole, snn=snn).report.sites


def test_inputs_of_many_decades_are_shown_by_ratios() -> None:
    class Inverse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1 / x

    x = torch.logspace(-4, 3, 800).view(100, 8)
    snn = to_spiking(Inverse().eval(), x, steps=6, method="binary", progress=False)
    (curve,) = site_curves(snn)
    assert curve.log
    ratios = curve.x[1:] / curve.x[:-1]
    assert ratios == pytest.approx(ratios[0])
