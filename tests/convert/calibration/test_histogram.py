"""The histogram: exact, independent of order, mergeable."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from convert.calibration.histogram import Histogram
from convert.calibration.histogram_kernels import dense_counts, exact_sum
from convert.errors import CalibrationError


def _of(parts: list[torch.Tensor]) -> Histogram:
    histogram = Histogram("site")
    for part in parts:
        histogram.add(part)
    return histogram


def _same(a: Histogram, b: Histogram) -> bool:
    return (
        a.level == b.level
        and np.array_equal(a.cells, b.cells)
        and np.array_equal(a.counts, b.counts)
        and (a.low, a.high, a.mean) == (b.low, b.high, b.mean)
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e5])
def test_order_and_parts_do_not_matter(scale: float) -> None:
    x = torch.randn(60_000, generator=torch.Generator().manual_seed(0)) * scale
    x[:50] *= 40
    whole = _of([x])
    assert _same(whole, _of(list(x.flip(0).split(700))))
    left, right = _of([x[:100]]), _of([x[100:]])
    right.merge(left)
    assert _same(whole, right)
    assert whole.total == x.numel()
    assert 2048 <= len(whole.cells) <= 4096


def test_counts_and_mean_are_exact() -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(1)).double() ** 5
    histogram = _of([x])
    index = np.floor(x.numpy() / histogram.width).astype(np.int64)
    cells, counts = np.unique(index, return_counts=True)
    assert np.array_equal(cells, histogram.cells) and np.array_equal(counts, histogram.counts)
    from math import fsum

    assert histogram.mean == pytest.approx(fsum(x.tolist()) / len(x), rel=1e-15)
    assert (histogram.low, histogram.high) == (float(x.min()), float(x.max()))


def test_constant_and_zero() -> None:
    assert _of([torch.zeros(5)]).mean == 0.0
    assert _of([torch.full((5,), 3.25), torch.zeros(2)]).total == 7


def test_bad_values_name_the_site() -> None:
    with pytest.raises(CalibrationError, match=r"site: NaN"):
        _of([torch.tensor([0.0, float("nan")])])
    with pytest.raises(CalibrationError, match=r"site: infinity"):
        _of([torch.tensor([0.0, float("-inf")])])
    masked = Histogram("site")
    masked.add(torch.tensor([0.0, float("-inf")]), masked=True)
    assert (masked.total, masked.minus_infinite) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_compiled_counts_and_sums(dtype: torch.dtype, scale: float) -> None:
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(0), dtype=dtype) * scale
    x[:4] = torch.tensor([0.0, -0.0, 1e-42, -1e-40])
    worth = torch.rand(len(x), generator=torch.Generator().manual_seed(1))
    level = int(np.log2(scale)) - 12
    low, high = float(x.min()), float(x.max())
    first, counts, mass = dense_counts(x.numpy(), worth.numpy(), level, low, high)
    cells = torch.floor(torch.ldexp(x.double(), torch.tensor(-level))).long()
    assert first == int(cells.min()) and counts.sum() == len(x)
    assert np.array_equal(counts, torch.bincount(cells - first).numpy())
    assert np.array_equal(mass, torch.bincount(cells - first, worth.double()).numpy())
    assert dense_counts(x.numpy(), None, level, low, high)[2] is None
    assert exact_sum(x.numpy()) == sum(map(Fraction, x.tolist()))


def test_one_value_many_times_takes_one_cell() -> None:
    for value in (0.0, -2.5, 2.0**-120):
        histogram = _of([torch.full((6000,), value), torch.full((10,), value)])
        assert (histogram.low, histogram.high, histogram.total) == (value, value, 6010)
        assert len(histogram.cells) == 1
        assert histogram.centres[0] == value
