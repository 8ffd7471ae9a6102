"""Training that is killed and resumed ends where an undisturbed one does."""

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models.training import Recipe, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """192 noise images in ten classes."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (192, 32, 32, 3), dtype=np.uint8)
    np.savez(path, x=images, y=generator.integers(0, 10, 192))
    return path


def _command(source: Path, output: Path) -> list[str]:
    return [
        sys.executable, str(ROOT / "scripts" / "train_cifar.py"), "--model", "resnet20",
        "--data", str(source), "--output", str(output), "--epochs", "6", "--batch-size", "16",
        "--augmentation", "cutout", "--held-out", "16", "--limit", "48", "--seed", "3", "--quiet",
    ]  # fmt: skip


def _weights(output: Path) -> dict[str, torch.Tensor]:
    found = torch.load(output / "weights.pt", weights_only=True)
    assert isinstance(found, dict)
    return found


def _finish(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Runs a command to its end in this process, with one thread as the others have."""
    monkeypatch.setattr(sys, "argv", command[1:])
    # Python finds a script's own modules beside it, which runpy leaves to its caller.
    monkeypatch.syspath_prepend(str(Path(command[1]).parent))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert runpy.run_path(command[1])["main"]() == 0
    finally:
        torch.set_num_threads(threads)


def test_killed_at_first_and_once_resumed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    _finish(monkeypatch, _command(source, undisturbed))
    moments = random.Random(0)
    kills = 0
    for epochs in (1, 3):
        process = subprocess.Popen(
            _command(source, disturbed), env=environment, stdout=subprocess.DEVNULL
        )
        # At a random moment after so many epochs, which may be while a file is written.
        log = disturbed / "log.csv"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and len(log.read_text().splitlines()) > epochs:
                break
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.15))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 2
    _finish(monkeypatch, _command(source, disturbed))
    expected, found = _weights(undisturbed), _weights(disturbed)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    rows = [
        [line.rsplit(",", 1)[0] for line in (output / "log.csv").read_text().splitlines()]
        for output in (undisturbed, disturbed)
    ]
    # All but the seconds.
    assert rows[0] == rows[1]


def test_learns_and_keeps_a_log(source: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = models.load_images(source, progress=False)
    model = models.get("resnet20", "random")
    recipe = Recipe(epochs=3, batch_size=32, augmentation="none", learning_rate=0.05, seed=1)
    rows = train(model, images, models.preprocessing("resnet20"), recipe, tmp_path, progress=False)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["learning_rate"] < rows[0]["learning_rate"]
