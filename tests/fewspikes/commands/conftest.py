"""A saved network with its images, and the command as a function."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from convert import to_spiking
from fewspikes.commands import app


@dataclass(frozen=True)
class Saved:
    """A network of four classes in a file, and images for it; not to be changed."""

    network: Path
    images: Path


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A small converted network, fitted for K = 4 and 3 with one gate."""
    folder = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (24, 8, 8, 3), np.uint8), rng.integers(0, 4, 24)
    np.savez(folder / "images.npz", x=x, y=y)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    ).eval()
    images = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    snn = to_spiking(model, images, steps=[4, 3], gates=1, method="binary", progress=False)
    told = {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "classes": 4}
    snn.save(folder / "net.fsnn", metadata={"model": "small", "preprocessing": told})
    return Saved(folder / "net.fsnn", folder / "images.npz")


@pytest.fixture
def fewspikes_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs ``fewspikes`` with these words; gives its exit code."""

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["fewspikes", *map(str, words)])
        return app.main()

    return run
