"""The rooms of the package: imports go one way, and a check that they do can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_DOOR = {"__init__", "conversion", "refitting", "pricing", "errors"}


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    return subprocess.run(
        [*command, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The packages and their contracts, to be changed."""
    for package in ("convert", "fewspikes", "models"):
        shutil.copytree(
            _ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("weights", "*.pyc")
        )
    shutil.copy(_ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_down() -> None:
    result = _lint(_ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("convert/graph/fold.py", "from ..network.model import SpikingModel", "convert.network"),
        ("convert/common/files.py", "from ..neuron import surrogate", "convert.neuron"),
        ("convert/sites/find.py", "import models.data", "models"),
        ("convert/graph/regions.py", "from . import roles", "convert.graph"),
        ("models/text.py", "import fewspikes", "fewspikes"),
    ],
    ids=["from above", "from the lowest", "models", "circle", "the package of both"],
)
def test_an_import_the_wrong_way_is_found(copied: Path, file: str, line: str, found: str) -> None:
    changed = copied / file
    text = changed.read_text("utf-8")
    marker = "from __future__ import annotations\n"
    assert marker in text
    changed.write_text(text.replace(marker, f"{marker}{line}\n", 1), "utf-8")
    result = _lint(copied)
    assert result.returncode != 0
    assert found in result.stdout


def test_a_new_room_must_be_given_its_place(copied: Path) -> None:
    (copied / "convert" / "attic").mkdir()
    (copied / "convert" / "attic" / "__init__.py").write_text('"""Nothing."""\n')
    assert _lint(copied).returncode != 0


def test_the_root_holds_the_door_alone() -> None:
    assert {path.stem for path in (_ROOT / "convert").glob("*.py")} == _DOOR
