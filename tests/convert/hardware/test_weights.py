"""Integer weights: their errors, their shifts, and accumulators that never overflow."""

import pytest
import torch
from torch import Tensor

from convert.hardware.weights import whole_weights


def _weights(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shape", "axis"), [((6, 4, 3, 3), 0), ((5, 7), 0), ((5, 7), 1)])
def test_weights_are_near(shape: tuple[int, ...], axis: int) -> None:
    weight = _weights(shape)
    made = whole_weights(weight, None, axis, taken=0.3, given=0.01, most=255, bits=8)
    assert int(made.integers.abs().max()) <= 127 and made.coarser == 0
    back = made.floats(0.3, axis)
    unit = made.units.view([-1 if i == axis else 1 for i in range(len(shape))]) / 0.3
    inside = made.integers.abs() < 127
    assert bool(((back - weight).abs() <= 0.5 * unit + 1e-9)[inside].all())
    # An accumulator comes to the result's unit by its shift.
    assert torch.allclose(made.units * 2.0**made.shifts, torch.full((shape[axis],), 0.01).double())


def test_channels_have_units_of_their_own() -> None:
    weight = _weights((3, 20)) * torch.tensor([[1.0], [1e-3], [0.0]])
    made = whole_weights(weight, None, 0, taken=1.0, given=0.1, most=100, bits=8)
    assert made.units[1] < made.units[0] / 500
    assert int(made.integers[1].abs().max()) > 60 and not made.integers[2].any()


@pytest.mark.parametrize("bits", [8, 16])
def test_no_accumulator_overflows(bits: int) -> None:
    weight, bias = _weights((4, 30_000)).sign() * 0.1, torch.full((4,), 0.5)
    weight[0] = 0.0
    weight[0, 0] = 0.1
    most = 2**15
    made = whole_weights(weight, bias, 0, taken=1e-3, given=1e-3, most=most, bits=bits)
    sums = made.integers.abs().sum(1) * most
    whole = torch.round(bias.double() / made.units).to(torch.int64)
    assert int((sums + whole).max()) <= made.most < 2**31
    assert made.with_bias(whole) == int((sums + whole).max())
    # The first channel has one weight, and keeps all its bits.
    assert made.coarser == 3
    assert int(made.integers[0].abs().max()) >= 2 ** (bits - 2)


def test_one_unit_for_all_where_groups_share_them() -> None:
    weight = _weights((4, 3, 2, 2))
    made = whole_weights(weight, torch.randn(6), None, taken=1.0, given=0.1, most=100, bits=8)
    assert made.units.shape == (1,)
    most = made.integers.abs().flatten(2).sum(-1).sum(0).max() * 100
    assert int(most) <= made.most
