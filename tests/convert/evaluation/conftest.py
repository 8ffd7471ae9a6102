"""Networks that several tests evaluate; converted once, not to be changed."""

import pytest
import torch
from torch import Tensor, nn

from convert import SpikingModel, to_spiking


@pytest.fixture(scope="session")
def converted(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """The small network with five steps, fitted for three as well."""
    return to_spiking(small_model, noise, steps=[5, 3], method="binary", progress=False)


@pytest.fixture
def labels(small_model: nn.Module, noise: Tensor) -> Tensor:
    """Labels of the noise images ``[48]``; the small network is right on 39."""
    with torch.no_grad():
        labels = small_model(noise).argmax(1)
    labels[:9] = (labels[:9] + 1) % 4
    return labels
