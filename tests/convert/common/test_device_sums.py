"""Sums that nobody reads until the end."""

import pytest
import torch
from support.waits import Waits

from convert.common.device_sums import DeviceSum


def test_whole_numbers() -> None:
    found = DeviceSum(0)
    with Waits() as waits:
        found.add(torch.tensor(2**40))
        found.add(torch.tensor([True, True, False]).sum())
    assert not waits.number
    assert found.value == found.value == 2**40 + 2 and isinstance(found.value, int)
    found.add(3)
    found.add(torch.tensor(1))
    assert found.value == 2**40 + 6


def test_float64_is_added_in_order() -> None:
    values = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 9
    found, expected = DeviceSum(0.0), 0.0
    for value in values:
        found.add(value)
        expected += float(value)
    assert found.value == expected
    found.add(torch.tensor(torch.inf, dtype=torch.float64))
    assert found.value == pytest.approx(float("inf"))


def test_nothing_was_added() -> None:
    assert DeviceSum(0).value == 0 and DeviceSum(0.0).value == 0.0


@pytest.mark.parametrize("first", [0.1, torch.tensor(0.1, dtype=torch.float64)])
@pytest.mark.parametrize("second", [0.2, torch.tensor(0.2, dtype=torch.float64)])
def test_a_sum_that_another_one_joins(
    first: float | torch.Tensor, second: float | torch.Tensor
) -> None:
    found, other = DeviceSum(0.0), DeviceSum(0.0)
    found.add(first)
    other.add(second)
    found.join(other)
    assert found.value == 0.1 + 0.2 and other.value == 0.2
