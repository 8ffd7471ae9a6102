"""The command that makes whole numbers of a saved network."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from convert import to_spiking

_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "quantise.py"
_FILES = ["loss.json", "network.json", "network.npz", "reference.c"]


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    spec = importlib.util.spec_from_file_location("script_quantise", _SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["quantise", *map(str, arguments)])
    try:
        return int(module.main())
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A saved network, and its images."""
    folder = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (24, 8, 8, 3), np.uint8), rng.integers(0, 4, 24)
    np.savez(folder / "images.npz", x=x, y=y)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    ).eval()
    images = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    snn = to_spiking(model, images, steps=[4, 3], method="binary", progress=False)
    told = {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "classes": 4}
    snn.save(folder / "net.fsnn", metadata={"preprocessing": told})
    return folder / "net.fsnn", folder / "images.npz"


def test_it_writes_and_measures(
    saved: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network, images = saved
    sources = ("--data", images, "--calibration", images, "--quiet")
    assert _run(monkeypatch, network, *sources, "--steps", 3, "--output", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == _FILES
    loss = json.loads((tmp_path / "out" / "loss.json").read_text("utf-8"))
    assert loss["images"] == 24 and loss["quantised"]["agreement"] > 0.7
    document = json.loads((tmp_path / "out" / "network.json").read_text("utf-8"))
    assert document["steps"] == 3 and document["spike_weights"] == "power-of-two"
    # The test images are whole pixels, as they were before they were normalised.
    assert any("pixels" in read for layer in document["layers"] for read in layer.get("inputs", ()))
    printed = capsys.readouterr().out
    assert "quantised" in printed and "network.json" in printed


def test_what_is_refused(
    saved: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network, images = saved
    sources = ("--data", images, "--calibration", images, "--quiet", "--output", tmp_path / "no")
    (tmp_path / "bad.fsnn").write_bytes(b"nothing")
    for arguments, code, told in (
        ([network, *sources, "--steps", 9], 2, "fitted for K = 4, 3, not for 9"),
        ([network, *sources, "--weight-bits", 40], 4, "weight_bits must be"),
        ([network, *sources, "--weights", "ternary"], 2, "invalid choice"),
        ([tmp_path / "bad.fsnn", *sources], 3, "bad.fsnn"),
        ([network, "--data", tmp_path / "none.npz", *sources[2:]], 4, "none.npz"),
    ):
        assert _run(monkeypatch, *arguments) == code
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
        assert not (tmp_path / "no").exists()
