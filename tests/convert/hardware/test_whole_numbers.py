"""Shifts, units and bounds of whole numbers."""

import math

import pytest
import torch

from convert import InputError
from convert.hardware.whole_numbers import Rescale, checked, clamped, rescale, shifted, whole


def test_shifts_round_halves_up() -> None:
    n = torch.tensor([-6, -5, -2, -1, 0, 1, 2, 5, 6])
    assert shifted(n, 2).tolist() == [-1, -1, 0, 0, 0, 0, 1, 1, 2]
    assert shifted(n, 0).tolist() == n.tolist()
    assert shifted(n, -3).tolist() == (n * 8).tolist()
    each = shifted(torch.tensor([[6, 6], [-6, -6]]), torch.tensor([2, -1]))
    assert each.tolist() == [[2, 12], [-1, -12]]


@pytest.mark.parametrize("ratio", [2.0**5, 1.0, 2.0**-7])
def test_powers_of_two_are_shifts(ratio: float) -> None:
    made = rescale(ratio)
    assert made == Rescale(1, -round(math.log2(ratio)))
    assert made(torch.tensor([640])).item() == 640 * ratio


@pytest.mark.parametrize("ratio", [1.3, 0.77, 3e-4, 1234.5, 1 - 1e-7])
def test_other_ratios_take_a_multiplier(ratio: float) -> None:
    made = rescale(ratio)
    n = torch.randint(-(2**30), 2**30, (1000,), generator=torch.Generator().manual_seed(0))
    assert 2**14 <= made.multiplier < 2**15 or made.multiplier == 1
    gap = (made(n).double() - n * ratio).abs()
    assert bool((gap <= 0.5 + (n * ratio).abs() * 2.0**-15).all())
    bound = made.bound(2**30)
    assert int(made(n).abs().max()) <= bound <= 2**30 * ratio * (1 + 2.0**-13) + 2


def test_numbers_become_whole() -> None:
    x = torch.tensor([0.24, 0.25, -0.25, -0.26, 1e9, -math.inf])
    assert whole(x, 0.5, 100, "it").tolist() == [0, 1, 0, -1, 100, -100]
    assert clamped(torch.tensor([-300, 7]), 100).tolist() == [-100, 7]
    with pytest.raises(InputError, match="NaN comes to it"):
        whole(torch.tensor([math.nan]), 1.0, 10, "it")


def test_a_bound_that_was_proven_holds() -> None:
    n = torch.tensor([3, -8])
    assert checked(n, 8, "a sum") is n
    with pytest.raises(InputError, match="a sum holds 8, but at most 7"):
        checked(n, 7, "a sum")
