"""The histogram: exact, independent of order, mergeable."""

import numpy as np
import pytest
import torch

from convert.errors import CalibrationError
from convert.histogram import Histogram


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
