"""Calibration: streaming, independent of order, honest about NaN."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convert import to_spiking
from convert.assembly.fit_targets import problem
from convert.calibration.observe import calibrate
from convert.errors import CalibrationError, ConversionError
from convert.graph.capture import capture
from convert.sites.find import find_sites


def _observe(model: nn.Module, example: Tensor, batches):
    captured = capture(model, example)
    sites = find_sites(captured.graph_module)
    return calibrate(captured, sites, batches), sites


def test_counts_what_reaches_each_site(small: nn.Module, images: Tensor) -> None:
    observed, sites = _observe(small, images[:2], [images])
    seen: list[Tensor] = []
    small.act.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    small(images)
    relu = next(site for site in sites if site.name == "act")
    histogram = observed.histograms[relu.name]
    assert observed.images == 48
    assert observed.neurons[relu.name] == seen[0][0].numel()
    assert histogram.total == seen[0].numel()
    assert histogram.low == pytest.approx(float(seen[0].detach().min()), rel=1e-5)
    assert histogram.high == pytest.approx(float(seen[0].detach().max()), rel=1e-5)
    assert histogram.mean == pytest.approx(float(seen[0].detach().double().mean()), rel=1e-4)
    # Counts agree with the values themselves to the cell.
    edges = histogram.cells * histogram.width
    expected = [int(((seen[0] >= a) & (seen[0] < a + histogram.width)).sum()) for a in edges[:50]]
    assert np.abs(np.array(expected) - histogram.counts[:50]).sum() <= 6


def test_order_and_batches_do_not_matter(small: nn.Module, images: Tensor) -> None:
    one, _ = _observe(small, images[:2], [images])
    parts = [images[40:], images[:7], images[7:40]]
    other, _ = _observe(small, images[:2], parts)
    for name, histogram in one.histograms.items():
        again = other.histograms[name]
        assert again.total == histogram.total
        assert again.width == histogram.width
        # Rounding of another batch size may move a value over a cell's border.
        shift = np.setxor1d(histogram.cells, again.cells)
        assert len(shift) <= 0.01 * len(histogram.cells) + 2


def test_problem_is_the_function_on_the_histogram(small: nn.Module, images: Tensor) -> None:
    observed, sites = _observe(small, images[:2], [images])
    silu = next(site for site in sites if site.name == "silu")
    found = problem(silu, observed.histograms[silu.name], 4)
    used = found.weights > 0
    expected = nn.functional.silu(torch.from_numpy(found.centres)).numpy()
    np.testing.assert_allclose(found.values[used], expected[used], rtol=1e-3, atol=1e-9)
    assert found.weights.sum() == pytest.approx(1.0)


def test_fits_to_few_values_hold_between_them() -> None:
    # 50 values leave nearly all the cells between them empty.
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.randn(n, 1, generator=generator) for n in (50, 20_000))
    model = _Function(torch.sigmoid).eval()
    snn = to_spiking(model, few, steps=10, progress=False)
    exact, spiking = (net(many.clamp(few.min(), few.max())) for net in (model, snn))
    assert (spiking - exact).square().mean().sqrt() < 0.06 * exact.std()


def test_gap_across_a_pole_weighs_nothing() -> None:
    model = _Function(torch.reciprocal).eval()
    ends = torch.linspace(1, 2, 40)[:, None]
    observed, sites = _observe(model, ends, [torch.cat([ends, -ends])])
    found = problem(sites[0], observed.histograms[sites[0].name], 6)
    # As far beyond the values seen, which end at -1 and 1, as they spread.
    assert np.abs(found.values[found.weights > 0]).max() < 3
    assert found.weights[(found.centres > -0.3) & (found.centres < 0.3)].sum() == 0


class _Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("batches", [[], iter(()), [torch.zeros(0, 1, 8, 8)]])
def test_no_data_is_an_error(small: nn.Module, batches) -> None:
    with pytest.raises(CalibrationError, match="no image"):
        _observe(small, torch.randn(2, 1, 8, 8), batches)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_values_name_the_site(small: nn.Module, images: Tensor, bad: float) -> None:
    images[3, 0, 2, 2] = bad
    with pytest.raises(ConversionError, match="silu"):
        _observe(small, torch.randn(2, 1, 8, 8), [images])


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(torch.exp(self.line(x) * 1e4))


def test_activation_that_overflows_is_an_error() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    with pytest.raises(ConversionError, match="exp"):
        to_spiking(Overflowing().eval(), [x * 100], steps=3)
