"""What whole numbers cost, measured like an evaluation."""

import json

import pytest
import torch
from torch import Tensor, nn

from convert import InputError, evaluate, quantise, to_spiking
from convert.hardware.loss import measure


def test_three_networks_side_by_side(small_model: nn.Module, noise: Tensor) -> None:
    snn = to_spiking(small_model, noise, steps=[5, 3], method="binary", progress=False)
    labels = torch.arange(len(noise)) % 4
    data = [(noise[:30], labels[:30]), (noise[30:], labels[30:])]
    quantised = quantise(snn, noise, weight_bits=5, progress=False)
    found = measure(quantised, data, small_model, progress=False)
    known = evaluate(snn, small_model, data, by_site=0, progress=False)
    assert found.images == 48 and found.metric == "agreement"
    assert dict(found.original) == dict(known.original)
    assert all(found.spiking[key] == known.spiking[key] for key in found.spiking)
    with torch.no_grad():
        same = quantised(noise).argmax(1) == small_model(noise).argmax(1)
    assert found.quantised["agreement"] == pytest.approx(float(same.float().mean()))
    assert json.loads(json.dumps(found.to_dict()))["quantised"] == found.quantised.to_dict()
    assert "quantised" in str(found)
    with snn.with_steps(3):
        fewer = quantise(snn, noise, progress=False)
    # Outside of the block the K that was quantised runs beside it.
    cheaper = measure(fewer, data, small_model, progress=False)
    assert cheaper.spiking["agreement"] == known.by_K[0]["agreement"]


def test_what_is_refused(small_model: nn.Module, noise: Tensor) -> None:
    snn = to_spiking(small_model, noise, steps=2, method="binary", progress=False)
    with pytest.raises(InputError, match="takes what quantise returns first, found a SpikingModel"):
        measure(snn, noise)  # type: ignore[arg-type]
    quantised = quantise(snn, progress=False)
    with pytest.raises(InputError, match="yields no image"):
        measure(quantised, [], progress=False)
    with pytest.raises(InputError, match="no labels"):
        measure(quantised, [noise], metric="accuracy", progress=False)
