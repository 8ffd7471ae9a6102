"""How commands begin and end: what they refuse before any work, and what they leave behind."""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import arguments
import command
import numpy as np
import pytest
import torch

import convert
import models
from fewspikes.commands import endings, output

_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
_NAMES = sorted(
    path.stem for path in _SCRIPTS.glob("*.py") if path.stem not in ("arguments", "command")
)


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ending_{name}", _SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    try:
        return int(_script(name).main())
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    np.savez(path, x=np.zeros((24, 32, 32, 3), np.uint8), y=np.arange(24) % 10)
    return path


@pytest.fixture
def words(images: Path, tmp_path: Path) -> dict[str, list[object]]:
    """What each command needs at least, with an output folder that doesn't exist."""
    out, text = tmp_path / "out", tmp_path / "text.txt"
    text.write_bytes(b"few spikes " * 100)
    cifar = ["--model", "resnet20", "--weights", "random", "--data", images]
    return {
        "convert": [*cifar, "--calibration", images, "--steps", 2, "--output", out],
        "convert_cifar": [*cifar, "--calibration", images, "--steps", 2, "--output", out],
        "convert_ddpm": ["--output", out],
        "evaluate": [tmp_path / "net.fsnn", "--data", images],
        "fit_activation": ["silu", "--low", -1, "--high", 1, "--steps", 2],
        "quantise": [
            tmp_path / "net.fsnn",
            "--data",
            images,
            "--calibration",
            images,
            "--output",
            out,
        ],
        "quickstart": ["--output", out],
        "train_cifar": ["--model", "resnet20", "--data", images, "--output", out],
        "train_ddpm": ["--output", out],
        "train_text": ["--data", text, "--output", out],
        "build_library": ["--out", tmp_path / "library.npz"],
        "build_zoo": ["--output", out],
    }


def _refused(capsys: pytest.CaptureFixture[str], *named: str) -> None:
    shown = capsys.readouterr()
    assert shown.out == "", "nothing was begun"
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert len(shown.err) < 500
    for text in named:
        assert text in shown.err


def test_every_command_is_here(words: dict[str, list[object]]) -> None:
    assert sorted(words) == _NAMES


@pytest.mark.parametrize("name", [n for n in _NAMES if n != "evaluate"])
@pytest.mark.parametrize("seed", ["-1", "1.5", "x", str(2**64), "9" * 5000])
def test_what_is_no_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: Any, name: str,
    seed: str,
) -> None:  # fmt: skip
    assert _run(monkeypatch, name, *words[name], "--seed", seed) == 2
    _refused(capsys, "--seed", seed[:20])


@pytest.mark.parametrize("name", _NAMES)
def test_an_option_given_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: Any, name: str
) -> None:
    option = next(word for word in words[name] if str(word).startswith("--"))
    again = [str(option), *(["3"] if name != "fit_activation" else ["-1"])]
    assert _run(monkeypatch, name, *words[name], *again) == 2
    _refused(capsys, f"{option} is given 2 times")
    assert _run(monkeypatch, name, *words[name], "--quiet", "--qui") == 2
    _refused(capsys, "--quiet is given 2 times")


_WRONG = [
    ("convert_cifar", "--steps 64", "1 to 63"),
    ("convert_cifar", "--steps 4 4", "every K once"),
    ("convert_cifar", "--steps 4 auto", "auto"),
    ("convert_cifar", "--max-loss nan --steps auto", "'nan'"),
    ("convert_cifar", "--max-loss 0.1", "max_loss"),
    ("convert_cifar", "--budget 0 --steps auto", "'0'"),
    ("convert_cifar", "--budget-spikes 0 --steps auto", "'0'"),
    ("convert_cifar", "--budget-spikes 1", "budget_spikes"),
    ("convert_cifar", "--budget-operations 1", "budget_operations"),
    ("convert_cifar", "--spike-cost -1", "'-1'"),
    ("convert_cifar", "--spike-cost 0.1 --method binary", "tbpi-exact"),
    ("convert_cifar", "--pareto 0 nan", "'nan'"),
    ("convert_cifar", "--by-site -3", "'-3'"),
    ("convert_cifar", "--limit 0", "'0'"),
    ("convert_cifar", "--calibration-size -1", "'-1'"),
    ("convert_cifar", "--mean 0.5 0.5", "2 values"),
    ("convert_cifar", "--mean nan", "'nan'"),
    ("convert_cifar", "--std 0", "'0'"),
    ("convert_cifar", "--std 0.5 0.5 0.5 0.5", "4 values"),
    ("convert_cifar", "--size 0", "'0'"),
    ("convert_cifar", "--classes 0", "'0'"),
    ("convert_cifar", "--device gpu", "'gpu'"),
    ("convert_cifar", "--device meta", "meta"),
    ("convert_cifar", "--calibration nowhere", "nowhere"),
    ("convert_cifar", "--weights nowhere.pt", "nowhere.pt"),
    ("convert_cifar", "--weights {text}", "a text file"),
    ("convert_cifar", "--weights {page}", "a web page"),
    ("convert_cifar", "--weights {nothing}", "an empty file"),
    ("convert_cifar", "--weights {images}", "numpy.savez"),
    ("convert_cifar", "--weights {cut}", "can read"),
    ("convert_cifar", "--weights {folder}", "a folder"),
    ("convert_cifar", "--weights {pipe}", "a pipe"),
    ("convert_cifar", "--data {text}", "a text file"),
    ("convert_cifar", "--data {page}", "a web page"),
    ("convert_cifar", "--data {nothing}", "an empty file"),
    ("convert_cifar", "--data {pipe}", "a pipe"),
    ("convert", "--steps 64", "1 to 63"),
    ("convert", "--corrupt ignore", "'ignore'"),
    ("convert", "--corrupt-limit 1.5", "'1.5'"),
    ("convert", "--corrupt-limit nan%", "'nan%'"),
    ("convert", "--steps 4 4", "every K once"),
    ("convert", "--gates 16", "0 to 15"),
    ("convert", "--model resnet21", "resnet20"),
    ("convert", "--model timm:", "names no model"),
    ("convert", "--model torchvision:resnt50", "resnet50"),
    ("convert", "--model torchvision:raft_small", "convert it in Python"),
    ("convert", "--model nowhere.py:make", "nowhere.py"),
    ("convert", "--model {text}.py", "add its function"),
    # Either the folder or transformers is missing.
    ("convert", "--model hf:nowhere", "hf:"),
    ("convert", "--data nowhere", "nowhere"),
    ("convert", "--calibration nowhere.tar:train", "nowhere.tar"),
    ("convert", "--data {text}", "a text file"),
    ("convert", "--labels nowhere.txt", "nowhere.txt"),
    ("convert", "--labels name", "labels of its own"),
    ("convert", "--classes 9", "outside 0..8"),
    ("convert", "--weights nowhere.pt", "nowhere.pt"),
    ("convert", "--weights DEFAULT", "not from one"),
    ("convert", "--resize 20", "no square of 32"),
    ("convert", "--interpolation cubic", "bicubic"),
    ("convert", "--length 12", "--length is for texts"),
    ("convert", "--metric perplexity", "accuracy or output"),
    ("convert", "--dynamic x:length", "INPUT:AXIS=NAME"),
    ("convert", "--batch-size 0", "'0'"),
    ("convert", "--workers -1", "'-1'"),
    ("convert", "--device meta", "meta"),
    ("convert", "--output {text}", "it is a file"),
    ("convert", "--output {protected}/out", "protected"),
    ("convert_ddpm", "--steps 1000", "1 to 63"),
    ("convert_ddpm", "--method binary binary", "twice"),
    ("fit_activation", "--low nan", "'nan'"),
    ("fit_activation", "--low 3", "low < high"),
    ("fit_activation", "--steps 0", "'0'"),
    ("fit_activation", "--steps 1000", "1 to 63"),
    ("fit_activation", "--spike-cost nan", "'nan'"),
    ("fit_activation", "--plot {text}/a.png", "a.png"),
    ("fit_activation", "--json {folder}", "a folder"),
    ("fit_activation", "--json {protected}", "read-only"),
    ("quickstart", "--steps 3 3", "every K once"),
    ("quickstart", "--steps 64", "1 to 63"),
    ("quickstart", "--method tpbi", "tpbi"),
    ("train_cifar", "--epochs 0", "'0'"),
    ("train_cifar", "--learning-rate -1", "'-1'"),
    ("train_cifar", "--batch-size x", "'x'"),
    ("train_cifar", "--label-smoothing 1", "'1'"),
    ("train_cifar", "--test nowhere", "nowhere"),
    ("train_cifar", "--held-out -2", "'-2'"),
    ("train_ddpm", "--average 1", "'1'"),
    ("train_ddpm", "--warmup inf", "'inf'"),
    ("train_text", "--length x", "'x'"),
    ("train_text", "--held-out 1", "'1'"),
    ("train_text", "--data nowhere", "nowhere"),
    ("build_library", "--out {folder}", "a folder"),
]


@pytest.mark.parametrize(("name", "given", "named"), _WRONG, ids=[f"{n} {g}" for n, g, _ in _WRONG])
def test_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    words: Any, images: Path, name: str, given: str, named: str,
) -> None:  # fmt: skip
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "page").write_text("\n<!DOCTYPE html>\n<html>not found</html>\n")
    (tmp_path / "nothing").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "protected").write_text("")
    (tmp_path / "protected").chmod(0o444)
    os.mkfifo(tmp_path / "pipe")
    torch.save(torch.zeros(99), tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:700])
    changed = given.format(
        images=images, **{p.name: p for p in tmp_path.iterdir() if p.suffix == ""}
    )
    own, new = list(map(str, words[name])), changed.split(" ")
    for option in (word for word in new if word.startswith("--")):
        if option in own:  # in place of what the command was given
            start = own.index(option)
            end = next((i for i in range(start + 1, len(own)) if own[i][:2] == "--"), len(own))
            del own[start:end]
    assert _run(monkeypatch, name, *own, *new, "--quiet") == 2
    _refused(capsys, named)
    assert not (tmp_path / "out").exists()


def _parser(folder: bool = True) -> argparse.ArgumentParser:
    result = arguments.Parser()
    result.add_argument("--output" if folder else "--json", type=Path)
    arguments.add_common(result)
    return result


def _command(
    monkeypatch: pytest.MonkeyPatch, path: Path, run: Callable[[Any], Any], *more: str
) -> int:
    monkeypatch.setattr(sys, "argv", ["command", "--output", str(path), *more])
    return command.run_command(_parser(), run, writes=lambda _: ["result.txt"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    number: signal.Signals,
) -> None:  # fmt: skip
    def run(options: Any) -> None:
        with convert.common.files.atomic_path(options.output / "result.txt") as temporary:
            temporary.write_text("half")
            signal.raise_signal(number)

    before = signal.getsignal(signal.SIGTERM)
    # A shell lets what it runs in the background ignore this signal.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = _command(monkeypatch, tmp_path / "a" / "b", run)
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert code == 128 + number
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_end_of_an_object_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    number: signal.Signals,
) -> None:  # fmt: skip
    class Workers:
        """As what reads data in other processes, and waits for them at its end."""

        def __del__(self) -> None:
            signal.raise_signal(number)
            time.sleep(0)

    def run(options: Any) -> None:
        Workers()
        time.sleep(10)
        pytest.fail("the signal was lost")

    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    hook = sys.unraisablehook
    try:
        assert _command(monkeypatch, tmp_path / "out", run) == 128 + number
    finally:
        signal.signal(signal.SIGINT, inherited)
    shown = capsys.readouterr().err
    assert shown.startswith("stopped by") and shown.count("\n") == 1
    assert sys.unraisablehook is hook and signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (convert.InputError("no\nsuch thing"), 2),
        (models.ModelError("no such thing"), 2),
        (endings.Refusal(5, "no such thing"), 5),
        (FileNotFoundError(2, "no such thing", "somewhere"), 2),
        (BrokenPipeError(), None),
    ],
)
def test_errors_of_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    error: Exception, code: int | None,
) -> None:  # fmt: skip
    def run(_: Any) -> None:
        raise error

    if code is not None:
        assert _command(monkeypatch, tmp_path / "out", run) == code
        shown = capsys.readouterr().err
        assert "no such thing" in shown and shown.count("\n") == 1
    with pytest.raises(type(error)):
        _command(monkeypatch, tmp_path / "out", run, "--traceback")
    assert not (tmp_path / "out").exists()


def test_a_fault_of_the_program_is_no_error_of_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError):
        _command(monkeypatch, tmp_path / "out", lambda _: 1 // 0)


def test_the_second_run_into_one_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    inner = []

    def run(options: Any) -> None:
        inner.append(_command(monkeypatch, tmp_path / "out", lambda _: pytest.fail("it ran")))
        (options.output / "result.txt").write_text("whole")

    assert _command(monkeypatch, tmp_path / "out", run) == 0
    assert inner == [2]
    _refused(capsys, f"another run (process {os.getpid()}", "writes to")
    # It is over, or was killed: the next one runs.
    (tmp_path / "out" / ".running").write_text("process 1 on nowhere")
    assert _command(monkeypatch, tmp_path / "out", lambda _: None) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["result.txt"]


def test_folders_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "result.txt").mkdir(parents=True)
    for path, named in [
        (tmp_path / "file", "it is a file"),
        (tmp_path / "file" / "under", "Not a directory"),
        (tmp_path / "taken", "result.txt: it is a folder"),
        (Path("/proc/here"), "can't write"),
        (tmp_path / ("n" * 300), "too long"),
    ]:
        assert _command(monkeypatch, path, lambda _: pytest.fail("it ran")) == 2
        _refused(capsys, named)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    assert _command(monkeypatch, tmp_path / "out", lambda _: pytest.fail("it ran")) == 2
    _refused(capsys, "1 MB are free")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]


def test_warnings_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import warnings

    _command(monkeypatch, tmp_path / "out", lambda _: warnings.warn("take care", stacklevel=1))
    assert capsys.readouterr().err == "warning: take care\n"


_CHILD = """
import sys, time; sys.path.insert(0, sys.argv.pop(1))
import threading
from arguments import Parser, add_common
from command import run_command
from fewspikes.commands.endings import leave
from convert.common.files import atomic_path
from pathlib import Path
parser = Parser(); parser.add_argument("--output", type=Path); add_common(parser)
def run(options):
    threading.Thread(target=time.sleep, args=[60]).start()
    with atomic_path(options.output / "result.txt") as temporary:
        temporary.write_text("half"); print("begun", flush=True); time.sleep(60)
leave(run_command(parser, run, writes=lambda _: []))
"""


def test_sigterm_from_outside(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, _SCRIPTS, "--output", tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": str(_SCRIPTS.parent)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "begun\n"
    assert len(list((tmp_path / "out").iterdir())) == 2
    child.terminate()
    _, error = child.communicate(timeout=30)
    assert (child.returncode, error) == (143, "stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []
