from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.models_with_parts import Asking, converted
from torch import Tensor, nn

from convert import Conversion, InputError, SpikingModel, to_spiking


@pytest.fixture(scope="module")
def other(noise: Tensor) -> SpikingModel:
    """Another network."""
    return to_spiking(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval(), noise, steps=2, method="binary",
        progress=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, o: {"snn": nn.ReLU()}, "found a ReLU; give what to_spiking or load returned"),
        (lambda w, o: {"snn": o}, "the evaluation of another network"),
        (lambda w, o: {"snn": o, "result": None}, "correlation is that of another network"),
        (lambda w, o: {"snn": o, "result": None, "correlation": None}, "count this network"),
        (lambda w, o: {"result": 3}, "must be what evaluate.* returns, found a int"),
        (lambda w, o: {"counts": "x"}, "count_operations.* returns, found a str"),
        (lambda w, o: {"energy": {}}, "energy.* returns, found a dict"),
        (lambda w, o: {"energy": replace(w.energy, events_per_neuron=9.0)}, "energy of these"),
    ],
)
def test_measurements_of_something_else_are_refused(
    whole: Conversion, other: SpikingModel, change: Callable[..., Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        replace(whole, **change(whole, other))
    assert "\n" not in str(raised.value)


def test_blocks_are_refused(whole: Conversion) -> None:
    with whole.snn.with_steps(3), pytest.raises(InputError, match="outside of blocks"):
        Conversion(whole.snn)


def test_what_is_left_out_is_measured_on_images(gated: SpikingModel, images: Tensor) -> None:
    made = Conversion(gated).measured(images[:4])
    assert made.counts is not None and made.counts.images == 4
    assert made.energy is not None and made.correlation is not None and not made.missing
    assert Conversion(gated).measured(None).counts is None


def test_what_is_given_is_kept(whole: Conversion, images: Tensor) -> None:
    made = whole.measured(images)
    assert made.counts is whole.counts and made.correlation is whole.correlation
    assert replace(whole, energy=None).measured(None).energy is not None


def test_what_cannot_be_measured_says_why() -> None:
    snn = converted(Asking(), torch.randn(8, 3), ["blocks.0"])
    made = Conversion(snn).measured(torch.randn(4, 3))
    assert made.counts is None and made.correlation is None
    assert "one graph" in made.missing["counts"] and "one graph" in made.missing["correlation"]


def test_the_title(whole: Conversion) -> None:
    assert whole.title == "small" and replace(whole, name="").title == "A converted network"
