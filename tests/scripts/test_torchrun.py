"""convert.py under torchrun: what one process writes, and one end for all."""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import convert

_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
_MODEL = """
import os
import torch
from torch import nn
import models

def images():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 5))

def fails():
    if os.environ.get("RANK") == "1":
        raise models.ModelError("this one has no weights")
    return images()

images.preprocessing = fails.preprocessing = models.Preprocessing(8, (0.5,) * 3, (0.25,) * 3, 5)
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command but for its model and output."""
    rng = np.random.default_rng(0)
    (tmp_path / "mine.py").write_text(_MODEL)
    data = {"x": rng.integers(0, 256, (40, 8, 8, 3), np.uint8), "y": rng.integers(0, 5, 40)}
    np.savez(tmp_path / "data.npz", **data)
    given = ["--data", f"{tmp_path}/data.npz", "--calibration", f"{tmp_path}/data.npz"]
    return [*given, *"--steps 3 --method binary --by-site 3 --batch-size 8".split()]


def _alone(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What the command prints in this process, with one thread as the others have."""
    spec = importlib.util.spec_from_file_location("lone_convert", _SCRIPTS / "convert.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["convert.py", *words])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert module.main() == 0
    finally:
        torch.set_num_threads(threads)
    return printed.getvalue()


def _by_two(*words: str) -> "subprocess.CompletedProcess[str]":
    starter = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *starter, f"{_SCRIPTS}/convert.py", *words],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _without_times(folder: Path) -> tuple[dict[str, Any], bytes]:
    report = json.loads((folder / "report.json").read_text())
    report.pop("seconds")
    (path,) = folder.glob("*.fsnn")
    snn = convert.load(path)
    assert snn.report is not None
    snn.report.seconds.clear()
    snn.save(path)
    return report, path.read_bytes()


def test_two_processes_write_what_one_writes(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", f"{tmp_path}/mine.py:images", *words, "--output"]
    ran = _by_two(*words, str(tmp_path / "two"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("written:") == 1
    assert _alone(monkeypatch, *words, str(tmp_path / "one")).count("written:") == 1
    for out in (tmp_path / "one", tmp_path / "two"):
        assert sorted(path.name for path in out.iterdir()) == [
            "images.fsnn", "report.html", "report.json", "steps.png"
        ]  # fmt: skip
    assert _without_times(tmp_path / "one") == _without_times(tmp_path / "two")


def test_an_error_of_one_process_ends_both(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = _by_two("--model", f"{tmp_path}/mine.py:fails", *words, "--output", str(out))
    assert ran.returncode != 0
    assert "error in process 1: " in ran.stderr and "this one has no weights" in ran.stderr
    assert not out.exists()
