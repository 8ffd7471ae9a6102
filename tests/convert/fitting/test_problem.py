"""Many time steps are said to cost a lot, once and before the work."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from convert import fit, refit, to_spiking
from convert.fitting.problem import warn_of_many_steps


@pytest.mark.parametrize("steps", [[], [1], [8, 32], [32]])
def test_usual_steps_are_no_matter(steps: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_many_steps(steps)


def test_many_steps_are_named_once(small: nn.Module, images: Tensor) -> None:
    with pytest.warns(UserWarning, match="K = 63 is a lot") as said:
        fit(torch.relu, low=-1, high=1, steps=63, method="binary")
    assert len(said) == 1 and said[0].filename == __file__
    with pytest.warns(UserWarning, match="K = 40 is a lot") as said:
        snn = to_spiking(small, images, steps=[33, 40], method="binary", progress=False)
    assert len(said) == 1 and said[0].filename == __file__
    with pytest.warns(UserWarning, match="K = 35 is a lot") as said:
        refit(snn, per_site_steps={"*": 35}, steps=4, method="binary", progress=False)
    assert len(said) == 1 and said[0].filename == __file__
