"""Which functions are ramps, whatever the bins are."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convert import fit
from convert.fitting.problem import Problem
from convert.fitting.ramp import ramp_of


def _problem(function: Callable[[Tensor], Tensor], edges: np.ndarray, steps: int = 8) -> Problem:
    centres = 0.5 * (edges[:-1] + edges[1:])
    values = function(torch.from_numpy(centres)).numpy()
    weights = np.exp(-0.5 * np.clip(centres, -3, 3) ** 2)
    # Of the wide bins only the outermost holds a value, which is rare.
    weights[np.diff(edges) > 1] = 1e-9
    return Problem(edges, weights / weights.sum(), values, steps, "f", "f", True, jumps=np.empty(0))


_FINE = np.linspace(-3, 9, 1201)
# One value far outside, and wide bins on the way to it.
_OUTLIER = np.concatenate([_FINE, [16.0, 24.0, 32.0, 32.5]])
_LOW = np.concatenate([[-24.5, -24.0, -16.0, -8.0], _FINE])


@pytest.mark.parametrize("edges", [_FINE, _OUTLIER, _LOW], ids=["fine", "outlier", "low outlier"])
def test_a_ramp_is_known_between_bins_of_any_width(edges: np.ndarray) -> None:
    found = ramp_of(_problem(F.relu, edges))
    assert found is not None
    assert (found.begin, found.slope, found.base) == pytest.approx((0, 1, 0), abs=1e-9)
    clip = ramp_of(_problem(lambda x: x.clamp(-0.5, 1.25), edges))
    assert clip is not None and clip.begin + clip.length == pytest.approx(1.25)


@pytest.mark.parametrize("edges", [_FINE, _OUTLIER, _LOW], ids=["fine", "outlier", "low outlier"])
@pytest.mark.parametrize("function", [F.gelu, F.silu, F.softplus, F.mish, torch.tanh])
def test_a_curve_is_none(function: Callable[[Tensor], Tensor], edges: np.ndarray) -> None:
    assert ramp_of(_problem(function, edges)) is None


def test_one_far_value_does_not_spoil_the_fit_of_a_curve() -> None:
    # All of the error would be that of a ReLU in place of the curve.
    plain, far = (_problem(F.gelu, edges, 4) for edges in (_FINE, _LOW))
    errors = []
    for problem in (plain, far):
        neuron = fit(F.gelu, density=(problem.edges, problem.weights), steps=4)
        x = problem.centres[-len(_FINE) + 1 :]
        y = neuron.decode(torch.from_numpy(x)).numpy()
        errors.append(float(plain.weights @ (y - plain.values) ** 2))
    assert errors[1] < 2 * errors[0]
