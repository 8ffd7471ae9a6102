"""The whole command: help at once, one line for what is wrong, and the exit codes."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError

import fewspikes
from fewspikes.commands.app import app
from fewspikes.commands.parsing import WrongWords, spelled_out

_ROOT = Path(__file__).resolve().parents[3]
_NAMES = ["convert", "evaluate", "report", "energy", "quantise", "info", "zoo", "fit"]
Run = Callable[..., int]


def _python(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(1, {str(_ROOT)!r})\n{code}"],
        cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_version(fewspikes_command: Run, capsys: Any) -> None:
    assert fewspikes_command("--version") == 0
    assert capsys.readouterr().out == f"fewspikes {fewspikes.__version__}\n"


def test_every_command_is_in_the_help(fewspikes_command: Run, capsys: Any) -> None:
    assert fewspikes_command("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"│ {name} " in shown for name in _NAMES)
    assert sorted(name for name in app() if not name.startswith("-")) == sorted(_NAMES)
    assert "--install-completion" in shown and "Exit codes:" in shown


@pytest.mark.parametrize("name", _NAMES)
def test_help_has_examples_and_exit_codes(
    fewspikes_command: Run, capsys: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert fewspikes_command(name, "--help") == 0
    shown = capsys.readouterr().out
    assert f"\n  fewspikes {name}" in shown.partition("Examples:")[2]
    codes = shown.partition("Exit codes:")[2]
    assert all(f"\n  {code} " in codes for code in (0, 1, 2, 130, 141, 143))
    assert "--quiet" in shown and "--traceback" in shown and "--json" in shown
    assert "\x1b" not in shown, "colours are for terminals"
    assert "None" not in shown and "--no-" not in shown and "--empty-" not in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", _NAMES)
def test_examples_are_accepted(name: str) -> None:
    """Every example in the help names options that there are, with values that they take."""
    examples = str(app()[name].help_epilogue).partition("Exit codes:")[0].replace("\\\n", " ")
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    assert lines and all(line.startswith(f"fewspikes {name}") for line in lines)
    assert all(_accepted(shlex.split(line)[1:]) for line in lines)


@pytest.mark.parametrize(
    "page",
    [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))],
    ids=lambda page: str(page.relative_to(_ROOT)),
)
def test_commands_in_the_docs_are_accepted(page: Path) -> None:
    """They name options that there are, with values that they take."""
    blocks = re.findall(
        r"^```(?:bash|console|sh)?\n(.*?)^```", page.read_text("utf-8"), re.S | re.M
    )
    text = "\n".join(blocks).replace("\\\n", " ")
    for line in re.findall(r"^(?:\$ )?fewspikes (.+)$", text, re.MULTILINE):
        words = shlex.split(line, comments=True)
        assert _accepted(words), line


def _accepted(words: list[str]) -> bool:
    """Whether a command can be called with these words; nothing runs."""
    made = app()
    try:
        made.parse_args(spelled_out(made, words).words, exit_on_error=False, print_error=False)
    except (CycloptsError, WrongWords):
        return False
    return True


def test_help_comes_at_once(tmp_path: Path) -> None:
    code = """
import os, sys
sys.argv = ["fewspikes", *sys.argv[1:]]
from fewspikes.commands.app import main
for words in [["--help"], ["--version"], ["convert", "--help"], ["zoo"], ["convert", "--nonsense"]]:
    sys.argv = ["fewspikes", *words]
    main()
heavy = [name for name in ("torch", "numpy", "matplotlib", "numba") if name in sys.modules]
print(heavy, os.times().user + os.times().system)
"""
    begin = time.perf_counter()
    found = _python(code, tmp_path)
    heavy, _, seconds = found.stdout.splitlines()[-1].rpartition(" ")
    assert heavy == "[]", found.stderr
    # Of a processor: the clock on the wall depends on what else runs.
    assert float(seconds) < 1, time.perf_counter() - begin


def test_module_and_command_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "convert.py").write_text("raise RuntimeError('not ours')")
    (tmp_path / "models").mkdir()
    found = subprocess.run(
        [sys.executable, "-m", "fewspikes", "zoo", "resnet8_digits", "--output", "a.fsnn"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(_ROOT), "PATH": ""},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "a.fsnn").stat().st_size > 100_000


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    command = f"{sys.executable} -m fewspikes convert --help | head -n 1; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(
        ["bash", "-c", command], cwd=_ROOT, capture_output=True, text=True, timeout=60
    )
    assert found.stdout.startswith("Usage: fewspikes convert") and found.stderr == ""
    # All may have been written before the reader went.
    assert found.stdout.splitlines()[-1] in ("141", "0")


_WRONG = [
    ("nonsense", 2, "Unknown command"),
    ("--nonsense", 2, "Unknown command"),
    ("convert", 2, "MODEL, --data, --steps, --output are missing"),
    ("convert --model x --steps 4 --output o", 2, "--data is missing"),
    ("convert x --data d --steps --output o", 2, "--steps needs a value"),
    ("convert x --data d --steps 4 0 --output o", 2, "--steps: must be a whole number from 1"),
    ("convert x --data d --steps 4 --output", 2, "--output needs a value"),
    ("convert x --data d --steps 4 --output=", 2, "--output: the path is empty"),
    ("convert x y --data d --steps 4 --output o", 2, "unexpected: y"),
    ("convert x --data d --steps 4 --output o --step 3", 2, "--steps is given 2 times"),
    ("convert x --data d --data e --steps 4 --output o", 2, "--data is given 2 times"),
    ("convert x --data d --steps 4 --output o --nonsense", 2, "there is no option --nonsense"),
    ("convert x --data d --steps 4 --output o --gate=16", 2, "--gates: must be a whole number"),
    ("convert x --data d --steps 4 --output o --methd tbpi", 2, "did you mean --method?"),
    ("convert x --data d --steps 4 --output o -q", 2, "there is no option -q"),
    ("convert x --data d --steps 4 --output o --budget- 3", 2, "may be --budget-spikes"),
    ("convert x --data d --steps 4 --output o --quiet=1", 2, "--quiet takes no value"),
    (
        "convert x --data d --steps 4 --output o --encode half",
        2,
        "invalid choice: 'half'",
    ),
    ("convert x --data d --steps 4 --output o --plain --pla", 2, "--plain is given 2 times"),
    ("convert nothing --data d --steps 4 --output {new}", 2, "nothing"),
    ("convert resnet20 --weights random --data d --steps 4 --output {new}", 2, "no data at d"),
    ("info", 2, "FILE is missing"),
    ("info nowhere.fsnn", 3, "nowhere.fsnn"),
    ("info {images}", 3, "images.npz"),
    ("info {folder}", 3, "a folder"),
    ("zoo nothing", 2, "resnet8_digits"),
    ("zoo --output a.fsnn", 2, "the name of a network"),
    ("zoo resnet8_digits --output {folder}", 2, "it is a folder"),
    ("report nowhere.fsnn", 3, "nowhere.fsnn"),
    ("report {network} --data nowhere.npz --output {new}", 4, "nowhere.npz"),
    ("report {network} --output {folder}", 2, "it is a folder"),
    ("energy {network}", 2, "--data is missing"),
    ("energy {network} --data {images} --costs 3nm", 2, "3nm"),
    ("energy {network} --data {images} --steps 9", 2, "--steps: "),
    ("energy {network} --data {images} --sum-bits 7", 4, "16 or 32"),
    ("energy {network} --data {images} --device nothing", 2, "--device: "),
    ("fit silu --steps 3 --normal 1", 2, "--normal needs 2 values"),
    ("fit silu --steps 3 --normal 0 -1", 2, "normal"),
    ("fit nothing --steps 3 --low 0 --high 1", 2, "nothing"),
]


@pytest.mark.parametrize(("given", "code", "named"), _WRONG, ids=[given for given, *_ in _WRONG])
def test_wrong_words_are_told_in_one_line(
    fewspikes_command: Run, capsys: Any, saved: Any, tmp_path: Path, given: str, code: int,
    named: str,
) -> None:  # fmt: skip
    words = given.format(
        network=saved.network, images=saved.images, folder=tmp_path, new=tmp_path / "new"
    )
    assert fewspikes_command(*words.split(" ")) == code
    shown = capsys.readouterr()
    assert shown.out == "" and not (tmp_path / "new").exists()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert named in shown.err and len(shown.err) < 500


def test_a_word_of_any_length_is_told_in_one_line(fewspikes_command: Run, capsys: Any) -> None:
    for words in (["x" * 5000], ["zoo", "--" + "x" * 5000], ["zoo", "a", "x" * 5000]):
        assert fewspikes_command(*words) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1 and len(shown) < 500


def test_completion_is_installed(
    fewspikes_command: Run, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fewspikes_command("--install-completion", "--shell", "bash") == 0
    (script,) = (path for path in tmp_path.rglob("fewspikes") if path.is_file())
    text = script.read_text("utf-8")
    assert all(word in text for word in (*_NAMES, "--gates", "--calibration-size"))
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    capsys.readouterr()
    assert fewspikes_command("--install-completion", "--shell", "csh") == 2
    assert capsys.readouterr().err.count("\n") == 1
