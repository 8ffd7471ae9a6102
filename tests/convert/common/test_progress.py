"""Progress: nothing for what is short, one line a minute where nobody watches a terminal."""

import io
import sys

import pytest

from convert.common import progress
from convert.common.progress import Progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("shown", [True, False])
def test_what_is_short_says_nothing_off_a_terminal(
    shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(Progress(range(3), "go", shown=shown)) == [0, 1, 2]
    with Progress[None](title="go", total=1, shown=shown) as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_one_line_after_every_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    shown = Progress(range(6), "fit", shown=True)
    shown._bar._time = lambda: now[0]
    shown._bar.start_t = shown._bar.last_print_t = 0.0
    for _ in shown:
        now[0] += 40.0
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("fit: ") and "/6" in line for line in lines)
    assert 2 <= len(lines) <= 5


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(Progress(range(3), "go", shown=True)) == [0, 1, 2]
    assert "go: 100%" in terminal.getvalue() and "\r" in terminal.getvalue()
    assert progress._SECONDS == 60
