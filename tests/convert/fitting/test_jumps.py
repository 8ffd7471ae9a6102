"""Jumps are found to the last float, and told from poles and steep slopes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from convert.fitting.jumps import Jumps, find_jumps


def _found(function: Callable[[Tensor], Tensor], low: float, high: float) -> Jumps:
    def sampled(x: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(x)).numpy()

    return find_jumps(sampled, np.linspace(low, high, 500), np.float32)


def test_the_last_float_before_a_jump() -> None:
    for threshold, function in (
        (0.1, lambda x: (x > 0.1).to(x)),
        (0.1, lambda x: (x > 0.1) * x),
        (-1 / 3, lambda x: torch.where(x <= -1 / 3, torch.sin(x), 2.0)),
    ):
        (at,) = _found(function, -2, 2).at
        before = torch.tensor(at, dtype=torch.float32)
        after = torch.nextafter(before, torch.tensor(9.0))
        assert float(before) == at and abs(at - threshold) < 1e-6
        assert abs(float(function(before)) - float(function(after))) > 0.05
    (at,) = _found(lambda x: (x >= 0.5).to(x), -2, 2).at
    assert at == np.nextafter(np.float32(0.5), np.float32(0))


@pytest.mark.parametrize(
    "function",
    [
        torch.reciprocal,
        torch.tan,
        lambda x: torch.log(x.abs()),
        lambda x: torch.rsqrt(x.abs()),
        lambda x: torch.sigmoid(1e6 * x),
        torch.relu,
        lambda x: x.abs().sqrt(),
    ],
)
def test_poles_and_slopes_are_no_jumps(function: Callable[[Tensor], Tensor]) -> None:
    found = _found(function, -3, 3)
    assert not len(found.at) and not found.stairs


def test_a_staircase_is_known_beyond_the_range() -> None:
    found = _found(torch.sign, 1, 3)
    assert not len(found.at)
    assert found.stairs[0].levels.tolist() == [-1, 0, 1]
    assert [float(t) for t in found.stairs[0].jumps] == [-np.float32(2.0**-149), 0.0]
    narrow, wide = (len(s.jumps) for s in (found.stairs[-1], _found(torch.round, -2, 2).stairs[0]))
    assert narrow == 0 and wide == 12


def test_a_function_with_slopes_is_no_staircase() -> None:
    found = _found(torch.frac, -1.5, 2.5)
    assert np.allclose(found.at, [-1, 1, 2], atol=1e-6) and not found.stairs
