"""README: its length, its picture, its figures, its commands, and its example."""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import fewspikes
from fewspikes import models

_ROOT = Path(__file__).resolve().parents[1]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_SET_UP = 'python3 -m venv .venv && .venv/bin/pip install -q -e ".[{}]" && .venv/bin/python {}\n'
_COMMANDS = _SET_UP.format("demo", "scripts/quickstart.py") + _SET_UP.format("test", "-m pytest")


def _cells(text: str) -> list[list[str]]:
    """The rows of the tables of a page, headings too."""
    lines = re.findall(r"^\|(.+)\|$", text, re.MULTILINE)
    return [[cell.strip(" *") for cell in line.split("|")] for line in lines]


def _table(name: str) -> list[list[str]]:
    return _cells((_ROOT / "benchmarks" / name).read_text(encoding="utf-8"))


def test_length() -> None:
    assert len(_README.splitlines()) <= 150
    assert max(map(len, _README.splitlines())) <= 120


def test_two_commands() -> None:
    assert f"```\n{_COMMANDS}```" in _README


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_ROOT / "docs"))
    return importlib.import_module("draw_front")


def test_picture(front: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = re.findall(r"!\[.{20,}\]\((\S+)\)", _README)
    table = front.read_table((_ROOT / "docs" / "cifar.md").read_text(encoding="utf-8"))
    assert table.original == 0.915
    assert table.plain.steps == table.plain.time and len(table.plain.steps) > 5
    assert table.gated.time == [k + 1 for k in table.gated.steps]
    assert table.gated.agreement[0] == 0.97 and table.plain.accuracy[0] == 0.768
    front.draw(table, tmp_path / "front.png")
    with Image.open(_ROOT / shown) as kept, Image.open(tmp_path / "front.png") as drawn:
        assert kept.size == drawn.size and kept.width == 1400


def test_figures_are_those_of_the_tables() -> None:
    """Each figure of README's two tables stands in a table of benchmarks/."""
    rate, few = _table("rate_coding.md"), _table("five_networks.md")
    rows = _cells(_README)
    at = next(i for i, row in enumerate(rows) if row[-1].startswith("rate coding, T"))
    ours = next(row for row in rate if row[:2] == ["few spikes", "K = 4, 3 gates"])
    settings = [cell.removeprefix("rate coding, ") for cell in rows[at][3:]]
    coded = [next(row for row in rate if row[1] == setting) for setting in settings]
    (original,) = [row for row in rate if row[0] == "original"]
    columns = [original, ours, *coded]
    told = {row[0]: row[1:] for row in rows[at + 2 : at + 6]}
    assert told["images with the right class"] == [row[4] for row in columns]
    assert told["images with the original's class"] == [row[5] for row in columns]
    assert told["spikes of a neuron for an image"] == [row[6] for row in columns]
    assert told["time steps from an image to its result"] == [row[2] for row in columns]
    found = [[row[0], "4", *row[2:4], row[5], row[7]] for row in few[2:]]
    assert found and [row for row in rows if row[0] in {r[0] for r in found}] == found


def test_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", _README, re.DOTALL)
    assert len(example.splitlines()) <= 12
    convert, images = fewspikes.to_spiking, models.load_images

    def quick(*args: Any, **given: Any) -> Any:
        return convert(*args, **{**given, "gates": 0, "method": "binary", "progress": False})

    monkeypatch.setattr(fewspikes, "to_spiking", quick)
    for package in (models, models._ours()):
        few = lambda *a, **given: images(*a, **given).first(40)  # noqa: E731
        monkeypatch.setattr(package, "load_images", few)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["logits"].shape == (40, 10)
    said = capsys.readouterr().out
    assert "agreement" in said and "relative MSE" in said
    assert (tmp_path / "digits.fsnn").is_file()
