"""On a GPU few calls wait for the check of their inputs, and none that lies outside is missed."""

import copy
import pickle
import warnings

import pytest
import torch
from support.waits import Waits, neurons_as_on_a_gpu
from torch import Tensor, nn

from convert import RangeWarning, SpikingModel, to_spiking
from convert.network import late_check
from convert.network.late_check import WAITING, LateCheck


@pytest.fixture(scope="module")
def converted(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """The small network; not to be changed."""
    return to_spiking(small_model, noise, steps=4, method="binary", progress=False)


@pytest.fixture
def snn(converted: SpikingModel, monkeypatch: pytest.MonkeyPatch) -> SpikingModel:
    """A copy that takes the CPU for a GPU."""
    monkeypatch.setattr(late_check, "KINDS", {"cpu"})
    return copy.deepcopy(converted)


def _warned(snn: SpikingModel, x: Tensor) -> list[str]:
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        snn(x)
    assert all(issubclass(one.category, RangeWarning) for one in caught)
    assert all(one.filename == __file__ for one in caught)
    return [str(one.message) for one in caught]


def test_the_first_calls_warn_at_once(snn: SpikingModel, images: Tensor) -> None:
    for _ in range(WAITING):
        (told,) = _warned(snn, 10 * images)
        assert "silu" in told


def test_later_calls_are_told_of_by_the_next(snn: SpikingModel, images: Tensor) -> None:
    for _ in range(WAITING):
        assert not _warned(snn, images)
    assert not _warned(snn, 10 * images)
    (told,) = _warned(snn, images)
    assert "an earlier call" in told
    assert not _warned(snn, images) and not _warned(snn, images)
    # A stream of them is counted by site, as elsewhere.
    assert not _warned(snn, 10 * images)
    (told,) = _warned(snn, 10 * images)
    assert "silu" in told and "an earlier call" not in told


def test_a_call_waits_for_nothing(
    snn: SpikingModel, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    neurons_as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(late_check._Reading, "done", lambda _: False)
    with torch.no_grad():
        with Waits() as waits:
            snn(images)
        assert waits.number
        for _ in range(WAITING):
            snn(images)
        with Waits() as waits:
            for _ in range(3):
                snn(images)
    assert not waits.number


def test_nothing_is_lost_while_the_gpu_is_behind(
    snn: SpikingModel, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[bool] = []
    monkeypatch.setattr(late_check._Reading, "done", lambda _: bool(arrived))
    for _ in range(WAITING + 1):
        assert not _warned(snn, images)
    assert not _warned(snn, 10 * images)
    for _ in range(3):
        assert not _warned(snn, images)
    arrived.append(True)
    told = [_warned(snn, images) for _ in range(3)]
    assert sum(map(len, told)) == 1


def test_copies_know_of_no_calls() -> None:
    check = LateCheck()
    check._calls = 9
    for copied in (copy.deepcopy(check), pickle.loads(pickle.dumps(check))):
        assert copied._calls == 0


def test_turned_off(snn: SpikingModel, images: Tensor) -> None:
    snn.check_inputs = False
    for _ in range(WAITING + 3):
        assert not _warned(snn, 10 * images)
