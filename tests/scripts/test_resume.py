"""convert.py --resume: killed by the system at chosen moments, it ends as it would have."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from convert.common.kept_stages import KeptStages
from convert.storage import container
from fewspikes.commands import output

_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

_MODEL = """
import torch
from torch import nn
import models

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 5))

network.preprocessing = models.Preprocessing(8, (0.5,) * 3, (0.25,) * 3, 5)
"""

# Runs the command; behind a stage, or before its network has its name, it waits to be killed.
_CHILD = """
import contextlib, importlib.util, sys, time
stop, folder = sys.argv[1:3]
sys.argv = ["convert.py", *sys.argv[3:]]
sys.path.append(folder)
import convert.storage.file as file
from convert.common.kept_stages import KeptStages

def wait():
    print("reached", flush=True)
    time.sleep(120)

def kept(self, name, content, write=KeptStages.write):
    write(self, name, content)
    if name == stop:
        wait()

@contextlib.contextmanager
def written(path, before=file.atomic_path):
    with before(path) as temporary:
        yield temporary
        wait()

KeptStages.write = kept
if stop == "file":
    file.atomic_path = written
spec = importlib.util.spec_from_file_location("command_convert", folder + "/convert.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from fewspikes.commands.endings import leave
leave(module.main())
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """What the command is given, beside its folders."""
    (tmp_path / "mine.py").write_text(_MODEL)
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    np.savez(path, x=rng.integers(0, 256, (24, 8, 8, 3), np.uint8), y=np.arange(24) % 5)
    data = ["--data", path, "--calibration", path, "--batch-size", 8]
    how = ["--steps", 3, 2, "--method", "binary", "--by-site", 4, "--quiet"]
    return list(map(str, ["--model", f"{tmp_path / 'mine.py'}:network", *data, *how]))


def _found(folder: Path) -> Any:
    """All that a run ended with, less seconds."""
    report = json.loads((folder / "report.json").read_text())
    graph, tensors = container.read(folder / "network.fsnn")
    document = json.loads(graph)
    for seconds in (report, document["report"]):
        del seconds["seconds"]
    # The tensors name the checksum of the JSON, with its seconds.
    start = 8 + int.from_bytes(tensors[:8], "little")
    picture = (folder / "steps.png").read_bytes()
    return report, document, tensors[start:], picture, sorted(p.name for p in folder.iterdir())


def _child(stop: str, temporary: Path, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, stop, _SCRIPTS, *words],
        env=os.environ
        | {
            "PYTHONPATH": str(_SCRIPTS.parent),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "TMPDIR": str(temporary),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _reached(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    # One that hangs ends the test, and not the whole run.
    late = threading.Timer(150, child.kill)
    late.start()
    lines: Iterator[str] = iter(child.stdout.readline, "")
    assert any(line == "reached\n" for line in lines), child.communicate()[1]
    late.cancel()


def _run(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> int:
    spec = importlib.util.spec_from_file_location("resumed_convert", _SCRIPTS / "convert.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["convert.py", *words])
    return int(module.main())


def test_killed_and_stopped_it_ends_as_it_would_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    whole, out, kept = (tmp_path / name for name in ("whole", "out", "kept"))
    resumed = [*words, "--output", str(out), "--resume", str(kept)]
    # Sockets of --workers need a short path.
    temporary = Path(tempfile.mkdtemp())
    # What a shell starts in the background ignores Ctrl-C, and so would the children.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        killed = _child("file", temporary, resumed)
        assert _run(monkeypatch, [*words, "--output", str(whole)]) == 0
        _reached(killed)
        killed.kill()
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL
        (half,) = [p.name for p in out.iterdir() if p.name != ".running"]
        assert half.startswith(".writing-locked-")
        stopped = _child("evaluation", temporary, [*resumed, "--workers=1"])
        _reached(stopped)
    finally:
        signal.signal(signal.SIGINT, inherited)
    stopped.send_signal(signal.SIGINT)
    _, error = stopped.communicate(timeout=60)
    assert stopped.returncode == 130 and "Traceback" not in error
    assert error.splitlines()[-1] == (
        f"stopped by Ctrl-C; the network is in {out / 'network.fsnn'}; kept in {kept}: "
        "calibration, fits 1, corrections 3, corrections 2, check, evaluation; the same command "
        "goes on from there"
    )
    assert [p.name for p in out.iterdir()] == ["network.fsnn"]
    assert _run(monkeypatch, resumed) == 0
    assert _found(out) == _found(whole)
    assert not [p for p in kept.iterdir() if p.suffix != ".stage"]
    left = [p.name for p in temporary.iterdir()]
    shutil.rmtree(temporary)
    assert not [name for name in left if not name.startswith("torchinductor_")]


def test_a_run_that_is_stopped_before_its_network_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, words: list[str]
) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    write = KeptStages.write

    def stopped(self: KeptStages, name: str, content: bytes) -> None:
        write(self, name, content)
        if name == "check":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(KeptStages, "write", stopped)
    assert _run(monkeypatch, [*words, "--output", str(out), "--resume", str(kept)]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"stopped by SIGTERM; kept in {kept}: calibration, fits 1, corrections 3, corrections 2, "
        "check; the same command goes on from there"
    )
    assert not out.exists() and all(p.suffix == ".stage" for p in kept.iterdir())


def test_without_the_option_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, words: list[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convert.evaluate", stopped)
    assert _run(monkeypatch, [*words, "--output", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"stopped by Ctrl-C; the network is in {tmp_path / 'out' / 'network.fsnn'}; no stage is "
        "kept without --resume DIR"
    )


def test_what_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, words: list[str]
) -> None:
    kept = tmp_path / "kept"
    words += ["--output", str(tmp_path / "out"), "--resume", str(kept)]
    (tmp_path / "file").write_text("")
    with KeptStages(kept):
        assert _run(monkeypatch, words) == 2
    assert f"another run (process {os.getpid()}" in capsys.readouterr().err
    assert _run(monkeypatch, [*words[:-1], str(tmp_path / "file")]) == 2
    assert "can't keep stages in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not kept.exists()
    # The network is known; the work isn't begun.
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _: SimpleNamespace(free=51 * 10**6))
    monkeypatch.setattr("convert.storage.room._TEXT", 70 * 10**6)
    monkeypatch.setattr("convert.to_spiking", lambda *_, **__: pytest.fail("it began"))
    assert _run(monkeypatch, words) == 2
    error = capsys.readouterr().err
    assert "51 MB are free there, and 72 MB are needed" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists() and not kept.exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_several_processes_are_refused_before_any_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, words: list[str], rank: str
) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert _run(monkeypatch, [*words, "--output", str(out), "--resume", str(kept)]) == 2
    error = capsys.readouterr().err
    assert "--resume: stages are kept by one process alone" in error and error.count("\n") == 1
    assert "torchrun started 2" in error and not out.exists() and not kept.exists()
