"""Inputs outside the calibrated range saturate, and say so."""

import copy
import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from convert import RangeWarning, SpikingModel, to_spiking


@pytest.fixture(scope="module")
def converted(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """The small network; not to be changed."""
    return to_spiking(small_model, noise, steps=6, method="binary")


@pytest.fixture
def snn(converted: SpikingModel) -> SpikingModel:
    """A copy that has not warned yet."""
    return copy.deepcopy(converted)


def test_ten_times_the_range_is_finite_and_counted(
    snn: SpikingModel, small: nn.Module, images: Tensor
) -> None:
    with pytest.warns(RangeWarning) as caught, torch.no_grad():
        outputs = snn(10 * images)
    assert outputs.isfinite().all()
    ((count, total),) = re.findall(r"silu ([\d,]+) of ([\d,]+) outside", str(caught[0].message))
    with torch.no_grad():
        x = small.first(10 * images)
    row = next(r for r in snn.report.sites if r.name == "silu")
    expected = int(((x > row.high + 1e-5) | (x < row.low - 1e-5)).sum())
    assert abs(int(count.replace(",", "")) - expected) <= 2 and expected > 0
    assert int(total.replace(",", "")) == x.numel()
    assert caught[0].filename == __file__


def test_nothing_is_said_within_the_range(snn: SpikingModel, images: Tensor) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        snn(images)
        snn(1.1 * images)
        snn.check_inputs = False
        snn(10 * images)
    assert not any(m._forward_pre_hooks for m in snn.modules())


def test_output_is_the_same_with_and_without_the_count(snn: SpikingModel, images: Tensor) -> None:
    with torch.no_grad():
        with pytest.warns(RangeWarning):
            counted = snn(10 * images)
        snn.check_inputs = False
        assert torch.equal(snn(10 * images), counted)


def test_count_by_site_on_request(snn: SpikingModel, images: Tensor) -> None:
    with torch.no_grad(), snn.count_outside() as found:
        snn(images)
    assert set(found) == set(snn.sites)
    assert sum(o.count for o in found.values()) < 0.05 * sum(o.values for o in found.values())
    assert found["silu"].count == 0  # it sees what calibration saw


def test_infinite_inputs_saturate(snn: SpikingModel, images: Tensor) -> None:
    images = images.clone()
    images[0, 0, 0, 0] = 1e30
    with pytest.warns(RangeWarning), torch.no_grad():
        assert snn(images).isfinite().all()
