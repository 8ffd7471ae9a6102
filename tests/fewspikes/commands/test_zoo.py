"""The converted networks that come with the package: their files, their figures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import convert
import models
from fewspikes.commands.zoo import FOLDER, figures, file_of

Run = Callable[..., int]


def test_every_file_has_figures_and_every_figure_a_file() -> None:
    assert sorted(figures()) == sorted(path.stem for path in FOLDER.glob("*.fsnn"))
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


@pytest.mark.parametrize("name", sorted(figures()))
def test_a_network_is_the_one_of_its_figures(name: str) -> None:
    snn, told = convert.load(file_of(name)), figures()[name]
    assert snn.metadata["measured"] == told and snn.metadata["model"] == name
    assert snn.report is not None and snn.report.settings is not None
    assert (snn.report.steps, snn.report.settings.gates) == (told["steps"], told["gates"])
    # Its exact functions are those of the network whose weights come along.
    prepared = models.preprocessing(name)
    images = torch.randn(2, len(prepared.mean), prepared.size, prepared.size)
    with torch.no_grad():
        exact = models.get(name)(images)
        torch.testing.assert_close(snn.original()(images), exact, rtol=1e-3, atol=1e-3)


def test_figures_of_the_digits_come_out_again(tmp_path: Path, fewspikes_command: Run) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    words = [file_of("resnet8_digits"), "--data", "digits", "--quiet"]
    assert fewspikes_command("evaluate", *words, "--json", tmp_path / "a.json") == 0
    report, told = json.loads((tmp_path / "a.json").read_text()), figures()["resnet8_digits"]
    assert report["images"] == told["images"]
    assert report["spiking"]["accuracy"] == told["accuracy"]
    assert report["original"]["accuracy"] == told["original_accuracy"]
    assert report["spiking"]["spikes_per_neuron"] == pytest.approx(told["spikes_per_neuron"])


def test_a_file_is_given_out(fewspikes_command: Run, capsys: Any, tmp_path: Path) -> None:
    target = tmp_path / "net.fsnn"
    assert fewspikes_command("zoo", "resnet8_digits", "--output", target) == 0
    assert target.read_bytes() == file_of("resnet8_digits").read_bytes()
    assert "99." in capsys.readouterr().out
    assert fewspikes_command("zoo", "--json") == 0
    assert json.loads(capsys.readouterr().out) == figures()
