"""`fewspikes report`: the page on one file, and on two."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import escape

Run = Callable[..., int]


def test_a_page_with_and_without_data(
    fewspikes_command: Run, capsys: Any, saved: Any, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert fewspikes_command("report", saved.network, "--output", page, "--quiet") == 0
    assert "Not tested" in page.read_text("utf-8") and "Not tested" in capsys.readouterr().out
    words = ["--data", saved.images, "--by-site", 2, "--quiet", "--json", "--output", page]
    assert fewspikes_command("report", saved.network, *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [str(page)] and "Not tested" not in told["networks"][0]["headline"]
    text = page.read_text("utf-8")
    assert "Not tested" not in text and escape(told["networks"][0]["headline"]) in text
    assert "fewspikes report" in text


def test_two_networks(
    fewspikes_command: Run, capsys: Any, saved: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data", saved.images, "--by-site", 0, "--limit", 8, "--quiet"]
    assert fewspikes_command("report", saved.network, saved.network, *words) == 0
    text = (tmp_path / "compare.html").read_text("utf-8")
    assert "net (A)" in text and "net (B)" in text
    assert "written: compare.html" in capsys.readouterr().out
