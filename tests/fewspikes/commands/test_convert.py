"""`fewspikes convert`: what is left out, and JSON alone on stdout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models

Run = Callable[..., int]


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """Images, and a conversion that takes a moment."""
    rng = np.random.default_rng(0)
    images = tmp_path / "images.npz"
    np.savez(images, x=rng.integers(0, 256, (20, 8, 8, 1), np.uint8), y=np.arange(20) % 10)
    quick = "--steps 3 --method binary --by-site 0 --quiet --output".split()
    return ["--data", images, *quick, tmp_path / "out"]


def test_json_alone_is_the_report(
    fewspikes_command: Run, capsys: Any, words: list[object], tmp_path: Path
) -> None:
    assert fewspikes_command("convert", "resnet8_digits", *words, "--json") == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    files = [Path(name).name for name in document.pop("files")]
    assert files == ["report.json", "steps.png", "resnet8_digits.fsnn", "report.html"]
    assert document == json.loads((tmp_path / "out" / "report.json").read_text())
    # Calibration took the test images, and it says so.
    assert "20 of 20 test images are calibration images" in shown.err
    assert "relative MSE" in shown.err and "written: " in shown.err
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "fewspikes convert resnet8_digits --data" in page


@pytest.mark.parametrize(
    ("model", "given", "wanted"),
    [
        ("timm:vit_tiny_patch16_224", [], "DEFAULT"),
        ("torchvision:resnet18", [], "DEFAULT"),
        ("torchvision:resnet18", ["--weights", "random"], "random"),
        ("resnet8_digits", [], None),
    ],
)
def test_weights_that_are_left_out(
    fewspikes_command: Run, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: list[object],
    tmp_path: Path, model: str, given: list[str], wanted: str | None,
) -> None:  # fmt: skip
    if model.startswith("timm:"):
        pytest.importorskip("timm", reason="the model is one of its")
    seen: list[object] = []

    def get(name: str, weights: str | None, *_: Any, **__: Any) -> None:
        seen.append(weights)
        raise models.ModelError("far enough")

    monkeypatch.setattr(models, "get", get)
    assert fewspikes_command("convert", model, *words, *given) == 2
    shown = capsys.readouterr()
    assert seen == [wanted] and not (tmp_path / "out").exists()
    note = [line for line in shown.err.splitlines() if line.startswith("note: the weights are")]
    assert len(note) == (wanted == "DEFAULT")
