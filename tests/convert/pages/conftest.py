"""A small network and all that can be measured of it; made once, not to be changed."""

import pytest
import torch
from torch import Tensor, nn

from convert import Conversion, SpikingModel, evaluate, to_spiking
from convert.inspect import correlate, count_operations, energy


@pytest.fixture(scope="session")
def gated(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """The small network with two gates, fitted for five steps and for three."""
    return to_spiking(small_model, noise, steps=[5, 3], gates=2, method="binary", progress=False)


@pytest.fixture(scope="session")
def whole(gated: SpikingModel, small_model: nn.Module, noise: Tensor) -> Conversion:
    """The network with everything that was measured of it."""
    with torch.no_grad():
        labels = small_model(noise).argmax(1)
    counts = count_operations(gated, noise[:4], progress=False)
    return Conversion(
        gated,
        evaluate(gated, small_model, (noise, labels), by_site=8, progress=False),
        counts,
        energy(counts),
        correlate(gated, small_model, noise[:8], progress=False),
        name="small",
    )
