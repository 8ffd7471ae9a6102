"""convert.py: any model by name, on any data; and what convert_cifar.py has in common with it."""

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import convert
import models

_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

_MODELS = """
import torch
from torch import nn
import models

def images():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 5))

class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(256, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 256)

    def forward(self, input_ids):
        return self.head(nn.functional.silu(self.mix(self.embed(input_ids))))

def texts():
    torch.manual_seed(0)
    return Texts()

images.preprocessing = models.Preprocessing(8, (0.5,) * 3, (0.25,) * 3, 5, 9)
texts.preprocessing = models.TextPreprocessing("bytes", 256, 32, True, 16)
"""


def _run(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> int:
    spec = importlib.util.spec_from_file_location(f"run_{name}", _SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, *map(str, words), "--quiet"])
    try:
        return int(module.main())
    except SystemExit as ended:
        return int(ended.code or 0)


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    found.pop("seconds")
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(_MODELS)
    return tmp_path / "mine.py"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Images of several sizes, each called by the number of its class among five."""
    rng = np.random.default_rng(0)
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        for number, folder in ((3, "ant"), (0, "bee"), (4, "cat")):
            for part, side in (("a", 12), ("b", 20)):
                content = io.BytesIO()
                pixels = rng.integers(0, 256, (side, side + number, 3), np.uint8)
                Image.fromarray(pixels).save(content, "PNG")
                member = tarfile.TarInfo(f"{part}/{folder}/{number}.png")
                member.size = content.tell()
                tar.addfile(member, io.BytesIO(content.getvalue()))
    return path


_QUICK = ["--steps", 3, "--method", "binary", "--by-site", 2]


def test_a_model_of_ones_own_on_an_archive(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, file: Path, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    data = ["--data", f"{archive}:b", "--calibration", f"{archive}:a", "--labels", "name"]
    words = ["--model", f"{file}:images", *data, *_QUICK, "--output", out]
    assert _run(monkeypatch, "convert", *words, "--audit", "--gates", 1) == 0
    report = _report(out)
    assert report["model"] == f"{file}:images" and report["images"] == 3
    assert report["preprocessing"]["resize"] == 9 and report["calibration_images"] == 3
    assert report["settings"]["gates"] == 1
    assert (out / "steps.png").read_bytes()[:4] == b"\x89PNG"
    assert "nonlinear outside neurons: none" in capsys.readouterr().out
    # The labels are those of the files' names.
    images = models.open_images(f"{archive}:b", labels="name")
    model, prepare = models.get(f"{file}:images"), models.preprocessing(f"{file}:images")
    x, y = next(images.batches(prepare))
    with torch.no_grad():
        right = (model(x).argmax(1) == y).double().mean().item()
    assert report["original"]["accuracy"] == pytest.approx(right)

    evaluated = [out / "images.fsnn", "--data", f"{archive}:b", "--labels", "name", "--json", "-"]
    assert _run(monkeypatch, "evaluate", *evaluated) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["spiking"]["accuracy"] == report["spiking"]["accuracy"]
    assert again["preprocessing"] == report["preprocessing"]


def test_corrupt_images_are_left_out_with_a_count(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, file: Path, tmp_path: Path
) -> None:
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    for i in range(30):
        place = photos / f"c{i % 5}" / f"{i:02d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + i % 4, 12, 3), np.uint8)).save(place)
    bad = [photos / "c1" / "06.jpg", photos / "c4" / "29.jpg"]
    for place in bad:
        place.write_bytes(place.read_bytes()[:300])
    data = ["--data", photos, "--calibration", photos, "--calibration-size", 10]
    words = ["--model", f"{file}:images", *data, *_QUICK, "--batch-size", 4]
    out, other = tmp_path / "out", tmp_path / "other"
    assert _run(monkeypatch, "convert", *words, "--output", out) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "10 of 30 test images are calibration images" in said[0]
    assert "can't be decoded" in said[1] and "--corrupt skip" in said[1]
    skip = ["--corrupt", "skip", "--corrupt-limit"]
    assert _run(monkeypatch, "convert", *words, "--output", out, *skip, 1) == 2
    assert "more than 1 of 30 images can't be decoded" in capsys.readouterr().err
    assert _run(monkeypatch, "convert", *words, "--output", out, *skip, "10%") == 0
    told, report = capsys.readouterr(), _report(out)
    assert f"warning: 2 of 30 images of {photos} can't be decoded and were left out" in told.err
    assert report["images"] == 28 and report["skipped"]["test"] == {
        "source": str(photos), "count": 2, "of": 30, "first": [str(place) for place in bad],
    }  # fmt: skip
    assert report["calibration_images"] == 10 - report["skipped"]["calibration"]["count"]
    assert told.out.splitlines()[0].startswith("seed 0, ")
    assert told.out.splitlines()[1:3] == report["drawn"] and "by seed 0" in report["drawn"][0]
    # The same as without the damaged files, and with processes that read ahead.
    assert _run(monkeypatch, "convert", *words, "--output", other, *skip, 9, "--workers", 2) == 0
    assert _report(other) == report
    capsys.readouterr()
    network = [out / "images.fsnn", "--data", photos, "--limit", 10, "--seed", 4, "--json", "-"]
    assert _run(monkeypatch, "evaluate", *network, *skip, 2, "--workers", 1) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 10 - found["skipped"]["test"]["count"]
    assert "test: 10 of 30" in found["drawn"][0] and "seed 4" in found["drawn"][0]


def test_a_file_does_not_choose_whose_code_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, file: Path, archive: Path, tmp_path: Path
) -> None:
    snn = convert.to_spiking(
        models.get(f"{file}:images"), torch.rand(4, 3, 8, 8), steps=2, method="binary",
        progress=False,
    )  # fmt: skip
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    prepared = models.preprocessing(f"{file}:images").to_dict()
    snn.save(
        tmp_path / "a.fsnn",
        metadata={"model": f"{tmp_path / 'evil.py'}:make", "preprocessing": prepared},
    )
    torch.save(models.get(f"{file}:images").state_dict(), tmp_path / "a.pt")
    words = [tmp_path / "a.fsnn", "--data", f"{archive}:b", "--labels", "name"]
    words += ["--against", tmp_path / "a.pt"]
    assert _run(monkeypatch, "evaluate", *words) == 2
    assert "give --model yourself" in capsys.readouterr().err and not ran.exists()
    assert _run(monkeypatch, "evaluate", *words, "--model", f"{file}:images") == 0


def test_a_language_model_on_a_text(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, file: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quality of mercy is not strained, it droppeth as the gentle rain\n" * 9)
    data = ["--data", f"{text}[0.5:]", "--calibration", f"{text}[:0.5]", "--length", 12]
    words = ["--model", f"{file}:texts", *data, *_QUICK, "--output", tmp_path / "out"]
    assert _run(monkeypatch, "convert", *words, "--limit", 6) == 0
    report = _report(tmp_path / "out")
    assert report["metric"] == "perplexity" and report["images"] == 6
    assert report["spiking"]["perplexity"] > 1 and report["preprocessing"]["length"] == 12
    assert "overlap" not in capsys.readouterr().err
    evaluated = [tmp_path / "out" / "texts.fsnn", "--data", f"{text}[0.5:]", "--limit", 6]
    assert _run(monkeypatch, "evaluate", *evaluated, "--json", "-") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["spiking"]["perplexity"] == report["spiking"]["perplexity"]


def test_an_axis_that_varies(monkeypatch: pytest.MonkeyPatch, file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quality of mercy is not strained\n" * 9)
    words = ["--model", f"{file}:texts", "--data", text, "--calibration", text, *_QUICK]
    words += ["--dynamic", "input_ids:1=length", "--output", tmp_path / "out"]
    assert _run(monkeypatch, "convert", *words) == 0
    snn = convert.load(tmp_path / "out" / "texts.fsnn")
    assert snn(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5, 256)


def test_a_part_of_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, file: Path, archive: Path, tmp_path: Path
) -> None:
    data = ["--data", f"{archive}:b", "--calibration", f"{archive}:a", "--labels", "name"]
    words = ["--model", f"{file}:images", *data, *_QUICK, "--output", tmp_path / "out"]
    assert _run(monkeypatch, "convert", *words, "--modules", "1") == 0
    report = _report(tmp_path / "out")
    assert len(report["sites"]) == 1
    evaluated = [tmp_path / "out" / "images.fsnn", "--data", f"{archive}:b", "--labels", "name"]
    capsys.readouterr()
    assert _run(monkeypatch, "evaluate", *evaluated) == 2
    assert "give --model yourself" in capsys.readouterr().err
    model = ["--model", f"{file}:images", "--json", "-"]
    assert _run(monkeypatch, "evaluate", *evaluated, *model) == 0
    assert json.loads(capsys.readouterr().out)["spiking"] == report["spiking"]


def test_random_weights_are_said_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = tmp_path / "images.npz"
    np.savez(images, x=rng.integers(0, 256, (20, 8, 8, 1), np.uint8), y=np.arange(20) % 10)
    words = ["--model", "resnet8_digits", "--weights", "random", "--data", images]
    words += ["--calibration", images, *_QUICK, "--output", tmp_path / "out"]
    assert _run(monkeypatch, "convert", *words) == 0
    assert "warning: random weights" in capsys.readouterr().err
    assert _report(tmp_path / "out")["preprocessing"] == models.preprocessing(words[1]).to_dict()


def test_both_commands_find_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, file: Path, archive: Path, tmp_path: Path
) -> None:
    """On all images, of which both draw all."""
    data = ["--data", f"{archive}:b", "--calibration", f"{archive}:a", "--labels", "name"]
    words = ["--model", f"{file}:images", *data, *_QUICK]
    for name in ("convert", "convert_cifar"):
        assert _run(monkeypatch, name, *words, "--output", tmp_path / name) == 0
    assert "random weights" not in capsys.readouterr().err
    assert _report(tmp_path / "convert") == _report(tmp_path / "convert_cifar")


def _python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=folder,
        env={"PYTHONPATH": str(folder)},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["convert", "convert_cifar"])
def test_a_wrong_option_is_refused_before_torch_is_imported(name: str) -> None:
    code = f"""
import runpy, sys
sys.path.insert(0, {str(_SCRIPTS)!r})
sys.argv = ["x", "--model", "resnet20", "--steps", "4", "--nonsense"]
try:
    runpy.run_path({str(_SCRIPTS / name) + ".py"!r}, run_name="__main__")
except SystemExit as ended:
    print(ended.code, "torch" in sys.modules)
"""
    found = _python(code, _SCRIPTS.parent)
    assert found.stdout == "2 False\n", found.stderr
    assert found.stderr.count("\n") == 1


def test_a_package_is_found_beside_the_script_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "convert" / "common").mkdir(parents=True)
    (tmp_path / "convert" / "__init__.py").write_text("WHO = 'the package'")
    (tmp_path / "convert" / "common" / "__init__.py").write_text("")
    code = f"""
import sys
sys.path.insert(0, {str(_SCRIPTS)!r})
import convert.common
import convert
print(convert.WHO, convert.__file__, sys.path[0])
"""
    found = _python(code, tmp_path)
    package = tmp_path / "convert" / "__init__.py"
    assert found.stdout == f"the package {package} {_SCRIPTS}\n", found.stderr
