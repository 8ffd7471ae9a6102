"""`fewspikes info`: what the file says, as the network says it itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import convert

Run = Callable[..., int]
_DATA = Path(__file__).resolve().parents[2] / "data"


def test_the_facts_are_those_of_the_network(
    fewspikes_command: Run, capsys: Any, saved: Any
) -> None:
    assert fewspikes_command("info", saved.network, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    snn = convert.load(saved.network)
    assert snn.report is not None and snn.report.settings is not None
    assert facts["model"] == "small" and facts["steps"] == [4] and facts["gates"] == [1]
    assert 3 in facts["other_steps"]
    assert facts["neurons"] == snn.report.neurons
    assert facts["latency_steps"] == snn.report.latency_steps
    assert facts["settings"]["method"] == snn.report.settings.method == "binary"
    (site,) = facts["sites"]
    (row,) = snn.report.sites
    for key in ("name", "function", "low", "high", "relative_mse", "neurons"):
        assert site[key] == getattr(row, key), key
    assert site["poor"] == row.poor
    assert [e["poor"] for e in facts["output_errors"]] == [e.poor for e in snn.report.output_errors]
    assert set(facts["versions"]) >= {"python", "torch"}
    assert fewspikes_command("info", saved.network) == 0
    shown = capsys.readouterr().out
    for text in ("small", "1 sites", "K:", "4; fitted for 3 too", "x * sigmoid(x)", "calibration"):
        assert text in shown


@pytest.mark.parametrize("file", sorted(path.name for path in _DATA.glob("*.fsnn")))
def test_files_of_before(fewspikes_command: Run, capsys: Any, file: str) -> None:
    assert fewspikes_command("info", _DATA / file, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    snn = convert.load(_DATA / file)
    assert snn.report is not None
    assert [site["name"] for site in facts["sites"]] == [s.name for s in snn.report.sites]
    assert fewspikes_command("info", _DATA / file) == 0


def test_parts_of_a_model(
    fewspikes_command: Run, capsys: Any, tmp_path: Path, small: Any, images: Any
) -> None:
    snn = convert.to_spiking(
        small, images, steps=3, method="binary", modules=["act"], progress=False
    )
    snn.save(tmp_path / "parts.fsnn")
    assert fewspikes_command("info", tmp_path / "parts.fsnn", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert snn.report is not None
    assert facts["parts"] == list(snn.parts) and facts["neurons"] == snn.report.neurons


def test_a_damaged_file(fewspikes_command: Run, capsys: Any, saved: Any, tmp_path: Path) -> None:
    shutil.copy(saved.network, tmp_path / "a.fsnn")
    content = bytearray((tmp_path / "a.fsnn").read_bytes())
    content[-20] ^= 1
    (tmp_path / "a.fsnn").write_bytes(content)
    assert fewspikes_command("info", tmp_path / "a.fsnn") == 3
    shown = capsys.readouterr()
    assert "fails its checksum" in shown.err and shown.err.count("\n") == 1 and not shown.out
