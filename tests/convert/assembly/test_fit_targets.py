"""What a neuron is fitted to: the function on what calibration saw, and between and beyond it."""

import pickle
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from convert import RangeWarning, SpikingModel, refit, to_spiking
from convert.assembly.fit_targets import problem
from convert.calibration.histogram import Histogram
from convert.calibration.observe import calibrate
from convert.capture.capture import capture
from convert.fitting.methods import fit_problems
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


class _Hidden(nn.Module):
    """A function of values of which a mask may hide some, and the mean of the others."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Linear(6, 6), nn.Linear(6, 3), function

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.b(self.function(self.a(x) + mask))


def _masked(function: Callable[[Tensor], Tensor], hidden: bool) -> tuple[SpikingModel, nn.Module]:
    model, x = _Hidden(function).eval(), torch.randn(64, 6)
    mask = torch.zeros(64, 6)
    if hidden:
        mask[:, ::3] = -float("inf")
    return to_spiking(model, [(x, mask)], steps=6, method="binary", progress=False), model


@pytest.mark.parametrize(
    "function", [torch.exp, torch.sigmoid, torch.tanh, torch.nn.functional.elu]
)
def test_what_a_mask_hides_stays_exact(function: Callable[[Tensor], Tensor]) -> None:
    snn, _ = _masked(function, True)
    (neuron,) = snn.sites.values()
    hidden = torch.tensor([-float("inf")])
    assert float(neuron(hidden)) == pytest.approx(float(function(hidden)), abs=1e-6)
    for again in (refit(snn, steps=4, progress=False), pickle.loads(pickle.dumps(snn))):
        (neuron,) = again.sites.values()
        assert float(neuron(hidden)) == pytest.approx(float(function(hidden)), abs=1e-6)


def test_a_mask_that_calibration_has_not_seen_is_told() -> None:
    snn, _ = _masked(torch.sigmoid, False)
    assert float(snn.sites["sigmoid"].offset) > 0.01
    x, mask = torch.randn(8, 6), torch.zeros(8, 6)
    mask[:, 0] = -float("inf")
    with pytest.warns(RangeWarning, match="sigmoid"):
        snn(x, mask)
    known, _ = _masked(torch.sigmoid, True)
    with snn.count_outside() as told, known.count_outside() as found:
        snn(x, mask)
        known(x, mask)
    assert told["sigmoid"].count >= 8 > found["sigmoid"].count


def test_a_mask_of_the_graph_counts_although_it_hid_nothing() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, open_: Tensor) -> Tensor:
            return self.b(torch.exp(self.a(x).masked_fill(open_ == 0, -float("inf"))))

    x, open_ = torch.randn(64, 6), torch.ones(64, 6, dtype=torch.long)
    snn = to_spiking(Model().eval(), [(x, open_)], steps=4, method="binary", progress=False)
    (neuron,) = snn.sites.values()
    assert float(neuron(torch.tensor([-float("inf")]))) == 0.0


def test_a_constant_is_free_where_no_mask_is() -> None:
    for function, most in (
        (nn.functional.hardtanh, 0.01),
        (torch.tanh, 0.06),
        (lambda x: torch.where(x > 0.1, x, -1.0), 0.02),
    ):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), _Function(function), nn.Linear(8, 3)).eval()
        x, z = torch.randn(256, 6), torch.randn(256, 6)
        snn = to_spiking(model, x, steps=8, progress=False)
        with torch.no_grad():
            exact = model(z)
            assert float((snn(z) - exact).norm() / (exact - exact.mean(0)).norm()) < most


def test_a_function_that_comes_back_to_0_keeps_its_free_constant() -> None:
    # GELU is flat far below 0, where hardly any value lies: a y0 at its minimum is worth more.
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(4000, generator=generator), torch.linspace(-12, -8, 20)])
    found = {}
    for function in (nn.GELU(), nn.Hardtanh()):
        line = nn.Linear(1, 1)
        nn.init.ones_(line.weight)
        nn.init.zeros_(line.bias)
        ((site, histogram),) = _seen(nn.Sequential(line, function).eval(), x[:, None]).values()
        found[type(function)] = problem(site, histogram, 4)
    assert found[nn.GELU].offset and found[nn.GELU].base == 0
    # What a bounded function is below all values is what no spike gives.
    assert not found[nn.Hardtanh].offset and found[nn.Hardtanh].base == -1


def test_gated_tables_that_are_fine_go_on_beyond_the_range() -> None:
    x = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    (seen,) = _seen(_Function(nn.functional.silu).eval(), x).values()
    low, high = float(x.min()), float(x.max())
    for steps, gates in ((12, 0), (8, 3)):
        edges = problem(*seen, steps, gates=gates).edges
        assert edges[-1] == pytest.approx(high, rel=0.01)
    fine = problem(*seen, 10, gates=1)
    assert fine.edges[-1] == pytest.approx(3 * high, rel=0.02)
    outside = fine.centres > high
    exact = nn.functional.silu(torch.from_numpy(fine.centres)).numpy()
    np.testing.assert_allclose(fine.values[outside], exact[outside])
    assert 0 < fine.weights[outside].sum() < 8 / 4096
    (solution,) = fit_problems([fine], "tbpi-exact", shared=True)
    # A neuron that saturates would stay at f(high).
    assert abs(solution(np.array([2 * high]))[0] - 2 * high) < 0.1 * high
    assert fine.edges[0] > 4 * low


def test_a_range_that_ends_at_a_bound_goes_no_further() -> None:
    x = -torch.rand(4096, 1, generator=torch.Generator().manual_seed(0)).square()
    (seen,) = _seen(_Function(torch.exp).eval(), torch.cat([x, torch.zeros(4096, 1)])).values()
    assert problem(*seen, 12, gates=3).edges[-1] == pytest.approx(0, abs=1e-3)


def test_what_lies_beyond_few_values_weighs_little() -> None:
    x = 3 * torch.randn(8, 1, generator=torch.Generator().manual_seed(0))
    (seen,) = _seen(_Function(nn.functional.silu).eval(), x).values()
    found = problem(*seen, 10, gates=3)
    outside = (found.centres > 1.05 * float(x.max())) | (found.centres < 1.05 * float(x.min()))
    assert 0 < found.weights[outside].sum() < 0.03
