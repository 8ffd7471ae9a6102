"""`fewspikes energy`: the prices that convert gives."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import convert
from convert.inspect import count_operations, energy

Run = Callable[..., int]


@pytest.mark.parametrize("steps", [None, 3])
def test_the_table_is_that_of_convert(
    fewspikes_command: Run, capsys: Any, saved: Any, steps: int | None
) -> None:
    words = ["energy", saved.network, "--data", saved.images, "--quiet", "--costs", "7nm"]
    words += ["--steps", steps] if steps else []
    assert fewspikes_command(*words, "--json") == 0
    found = capsys.readouterr()
    snn = convert.load(saved.network)
    x = torch.from_numpy(np.load(saved.images)["x"]).permute(0, 3, 1, 2).float()
    with snn.with_steps(steps or 4):
        own = energy(count_operations(snn, (x / 255 - 0.5) / 0.5, progress=False), "7nm")
    document = json.loads(found.out)
    assert document["steps"] == (steps or 4) and document["images"] == 24
    assert document["events_per_neuron"] == pytest.approx(own.events_per_neuron)
    told = own.to_dict()["with_memory"]["spiking"]["integer"]["usual"]
    assert document["with_memory"]["spiking"]["integer"]["usual"] == pytest.approx(told)
    assert "with_memory" in found.err
    assert fewspikes_command(*words) == 0
    assert "In nJ for one image" in capsys.readouterr().out.replace("uJ", "nJ").replace("mJ", "nJ")
