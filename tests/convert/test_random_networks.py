"""Random networks: fast equals plain, the original equals the model, loaded equals saved.

`FEWSPIKES_NETWORKS=200 python -m pytest tests/convert/test_random_networks.py` tries as many.
"""

import os
from pathlib import Path

import pytest
import torch
from support.random_networks import RandomNetwork, images
from torch import Tensor
from torch.utils import _pytree as pytree

from convert import SpikingModel, load, to_spiking

_COUNT = int(os.environ.get("FEWSPIKES_NETWORKS", "5"))


def _leaves(outputs: object) -> list[Tensor]:
    return pytree.tree_leaves(outputs)


def _plain(snn: SpikingModel, x: Tensor) -> list[Tensor]:
    """Outputs of the graph itself, as the network lays its inputs out."""
    outputs = snn.as_planned(snn.plan)(*snn.signature.flatten((x,), {}))
    return _leaves(snn.signature.unflatten(outputs))


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


@pytest.mark.parametrize("seed", range(_COUNT))
def test_a_random_network(seed: int, tmp_path: Path) -> None:
    model = RandomNetwork(seed).eval()
    snn = to_spiking(
        model,
        images(seed, 12),
        steps=(4, 6),
        method="binary",
        sequential=seed % 2 == 0,
        encode=seed % 5 == 0,
        progress=False,
    )
    x = images(seed + 1, 7)
    with torch.no_grad():
        for found, expected in zip(_leaves(snn.original()(x)), _leaves(model(x)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        snn.save(tmp_path / "net.fsnn")
        loaded = load(tmp_path / "net.fsnn")
        for network in (snn, loaded):
            for within in (
                lambda s: s.readout(2),
                lambda s: s.with_steps(6),
                lambda s: s.readout(None),
            ):
                with within(network):
                    assert _equal(_leaves(network(x)), _plain(network, x))
        assert _equal(_leaves(loaded(x)), _leaves(snn(x)))
