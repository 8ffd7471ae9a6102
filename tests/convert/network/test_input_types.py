"""A converted network names floating-point types that it doesn't take, whatever it was cast to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from convert import InputError, SpikingModel, evaluate, to_spiking


@pytest.fixture(scope="module")
def snn(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    return to_spiking(small_model, noise, steps=2, method="binary", progress=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_type_is_one_line(snn: SpikingModel, images: Tensor, dtype: torch.dtype) -> None:
    for network in (snn, snn.original()):
        with pytest.raises(InputError, match=f"x is {dtype}; the network takes torch.float32"):
            network(images.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        snn(images.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_network_that_was_cast(
    snn: SpikingModel, small: nn.Module, images: Tensor, dtype: torch.dtype
) -> None:
    cast = copy.deepcopy(snn).to(dtype)
    assert cast(images.to(dtype)).dtype == dtype
    with pytest.raises(InputError, match=f"the network takes {dtype}"):
        cast(images.bfloat16())
    # Batches are cast, for the original too.
    for model in (small, None):
        result = evaluate(cast, model, images, at=[], by_site=0, progress=False)
        assert result.spiking.agreement > 0.5
        assert f"torch.float32 inputs of a batch were cast to {dtype}" in result.notes
