"""Calibration: streaming, independent of order, honest about NaN."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convert import to_spiking
from convert.calibration.observe import calibrate
from convert.calibration.tally import widened
from convert.capture.capture import capture
from convert.errors import CalibrationError, ConversionError
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
        to_spiking(Overflowing().eval(), [x * 100], steps=3, method="binary", progress=False)


def test_nan_that_no_site_sees_says_nothing_of_the_range() -> None:
    nothing = torch.full((2,), torch.nan)
    batches = [torch.tensor([1.0, torch.nan, 3.0]), nothing, torch.tensor([torch.nan, -2.0])]
    for order in (batches, batches[::-1]):
        ranges: list[tuple[float, float] | None] = []
        for x in order:
            ranges = widened(ranges, [x])
        assert ranges == [(-2.0, 3.0)]
