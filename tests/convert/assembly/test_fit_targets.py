"""What a neuron is fitted to: the function on what calibration saw, and between and beyond it."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from convert.assembly.fit_targets import problem
from convert.calibration.histogram import Histogram
from convert.calibration.observe import calibrate
from convert.fitting.methods import fit_problems
from convert.graph.capture import capture
from convert.sites.find import Site, find_sites


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _seen(model: nn.Module, x: Tensor) -> dict[str, tuple[Site, Histogram]]:
    """Sites and their histograms, by name."""
    captured = capture(model, x[:2])
    sites = find_sites(captured.graph_module)
    observed = calibrate(captured, sites, [x])
    return {site.name: (site, observed.histograms[site.name]) for site in sites}


def test_the_function_on_the_histogram(small: nn.Module, images: Tensor) -> None:
    found = problem(*_seen(small, images)["silu"], 4)
    used = found.weights > 0
    expected = nn.functional.silu(torch.from_numpy(found.centres)).numpy()
    np.testing.assert_allclose(found.values[used], expected[used], rtol=1e-3, atol=1e-9)
    assert found.weights.sum() == pytest.approx(1.0)


def test_fits_to_few_values_hold_between_them() -> None:
    # 50 values leave nearly all the cells between them empty; 2^8 levels would find room there.
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.randn(n, 1, generator=generator) for n in (50, 20_000))
    (site,) = _seen(_Function(torch.sigmoid).eval(), few).values()
    (solution,) = fit_problems([problem(*site, 8)], "tbpi-exact", shared=True)
    x: npt.NDArray[np.float64] = many.clamp(few.min(), few.max()).double().numpy()
    exact = 1 / (1 + np.exp(-x))
    assert np.sqrt(np.square(solution(x) - exact).mean()) < 0.06 * exact.std()


def test_gap_across_a_pole_weighs_nothing() -> None:
    ends = torch.linspace(1, 2, 40)[:, None]
    (site,) = _seen(_Function(torch.reciprocal).eval(), torch.cat([ends, -ends])).values()
    found = problem(*site, 6)
    # As far beyond the values seen, which end at -1 and 1, as they spread.
    assert np.abs(found.values[found.weights > 0]).max() < 3
    assert found.weights[(found.centres > -0.3) & (found.centres < 0.3)].sum() == 0
