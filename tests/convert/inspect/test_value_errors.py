"""Sums over values equal those over all of them at once, and errors fall to their cause."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from convert.calibration.histogram import Histogram
from convert.inspect.value_errors import InputParts, Pairs


def _drawn(n: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


def _held(values: Tensor) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_pairs(mean: float) -> None:
    a = mean + _drawn(1000, 0)
    b = a + _drawn(1000, 1, 0.3)
    pairs = Pairs()
    for part in zip(a.split(300), b.split(300), strict=True):
        pairs.add(*part)
    assert pairs.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-9)
    rms = float((a - b).square().mean().sqrt())
    assert pairs.relative_error == pytest.approx(rms / float(a.std(correction=0)))
    assert pairs.mean_square == pytest.approx(float(a.square().mean()))


def test_pairs_that_do_not_vary() -> None:
    pairs = Pairs()
    pairs.add(torch.full((9,), 0.1).double(), torch.full((9,), 0.1).double())
    assert pairs.correlation is None and pairs.relative_error == 0
    pairs.add(torch.full((9,), 0.1).double(), torch.full((9,), 0.2).double())
    assert pairs.correlation is None and pairs.relative_error > 1e6
    assert Pairs().correlation is None and Pairs().relative_error == 0


def test_a_value_that_is_lost_is_an_infinite_error() -> None:
    pairs = Pairs()
    pairs.add(_drawn(5, 0), _drawn(5, 0))
    pairs.add(_drawn(5, 0), torch.tensor([0.0, 1, 2, 3, math.nan]).double())
    assert pairs.relative_error == math.inf and pairs.correlation is None


def test_values_as_at_calibration_are_neither_outside_nor_rare() -> None:
    for seed in range(5):
        held = _drawn(20_000, seed)
        parts = InputParts(float(held.min()), float(held.max()), _held(held))
        x = _drawn(3000, 100 + seed)
        parts.add(x, torch.ones_like(x), parts.beyond(x, 1e-7))
        found = parts.rare()
        assert found is not None and found[0] < 0.01 and parts.outside_share < 0.002
        assert parts.shares()[2] > 0.95
        assert (parts.lowest, parts.highest) == (float(x.min()), float(x.max()))


def test_errors_fall_to_their_cause() -> None:
    held = torch.cat([_drawn(5000, 0, 0.1) - 1, _drawn(5000, 1, 0.1) + 1])
    parts = InputParts(float(held.min()), float(held.max()), _held(held))
    usual, gap = held[::100], torch.linspace(-0.4, 0.4, 50).double()
    beyond = torch.tensor([-5.0, 5.0]).double()
    for x, error in ((usual, 0.01), (gap, 0.1), (beyond, 4.0)):
        parts.add(x, torch.full_like(x, error), parts.beyond(x, 1e-7))
    assert parts.outside_share == pytest.approx(2 / 152)
    rare = parts.rare()
    assert rare is not None and rare[0] == pytest.approx(50 / 152, abs=0.06) and rare[1] < 0.01
    outside, seldom, rest = parts.shares()
    assert outside == pytest.approx(8 / 14) and seldom == pytest.approx(5 / 14, abs=0.02)
    assert rest == pytest.approx(1 / 14, abs=0.02)


def test_a_mode_that_calibration_held_a_little_of_is_rare() -> None:
    held = torch.cat([_drawn(9900, 0, 0.1), _drawn(100, 1, 0.1) + 3])
    parts = InputParts(float(held.min()), float(held.max()), _held(held))
    x = torch.cat([held[:500], held[-100:].repeat(5)])
    parts.add(x, (x > 2).double(), parts.beyond(x, 1e-7))
    rare = parts.rare()
    assert rare is not None and rare[0] == pytest.approx(0.5, abs=0.02)
    assert rare[1] == pytest.approx(0.01, abs=0.005)
    assert parts.shares()[1] > 0.9


def test_ends_of_the_range_and_rounding_are_inside() -> None:
    parts = InputParts(-1.0, 2.0, None)
    x = torch.tensor([-1.0, 2.0, 2.0 + 1e-7, 2.1, -1.1]).double()
    assert parts.beyond(x, 1.2e-7).tolist() == [False, False, False, True, True]
    parts.add(x, torch.ones_like(x), parts.beyond(x, 1.2e-7))
    assert parts.rare() is None and parts.shares() == pytest.approx((0.4, 0.0, 0.6))


def test_cells_that_grow_with_the_magnitude() -> None:
    held = torch.logspace(-6, 6, 5000).double()
    histogram = Histogram(relative=True)
    histogram.add(held)
    parts = InputParts(float(held.min()), float(held.max()), histogram)
    parts.add(held[::5], torch.ones(1000).double(), parts.beyond(held[::5], 1e-7))
    found = parts.rare()
    assert found is not None and found[0] == 0
    assert len(parts.held) > 50 and parts.counts.sum() == 1000
    assert (parts.counts > 0).sum() > 50
