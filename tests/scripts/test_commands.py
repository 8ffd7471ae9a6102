"""The commands: what they write, and one readable line for what they refuse."""

import contextlib
import importlib.util
import io
import json
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", _SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    try:
        return _script(name).main()
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def images_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, x=rng.integers(0, 256, (24, 8, 8, 1), np.uint8), y=rng.integers(0, 10, 24))
    return path


def _convert(monkeypatch, images_file: Path, output: Path, *flags: str, **changed: object) -> int:
    options = {
        "--model": "resnet8_digits",
        "--activation": "relu",
        "--weights": "random",
        "--data": images_file,
        "--calibration": images_file,
        "--steps": "4 3",
        "--method": "binary",
        "--by-site": 4,
        "--output": output,
    } | {f"--{key}": value for key, value in changed.items()}
    words = [word for k, v in options.items() for word in (k, *str(v).split(" "))]
    return _run(monkeypatch, "convert_cifar", *words, *flags, "--quiet")


@dataclass(frozen=True)
class Converted:
    """What one run of convert_cifar wrote and printed; not to be changed."""

    folder: Path
    printed: str

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found

    @property
    def network(self) -> Path:
        return self.folder / "resnet8_digits.fsnn"


@pytest.fixture(scope="module")
def converted(images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder, printed = tmp_path_factory.mktemp("converted") / "out", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        assert _convert(patch, images_file, folder, "--audit") == 0
    return Converted(folder, printed.getvalue())


def test_convert_cifar_prints_the_audit(converted: Converted) -> None:
    assert "nonlinear outside neurons: none" in converted.printed
    assert "agrees with the report" in converted.printed


def test_convert_cifar_prices_spikes(
    monkeypatch, images_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed: dict[str, object] = {"steps": 2, "method": "tbpi-exact", "spike-cost": 0.05}
    flags = ("--pareto", "0", "0.5")
    assert _convert(monkeypatch, images_file, tmp_path / "out", *flags, **changed) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["spike_cost"] == 0.05 and report["expected_events"] > 0
    curve = json.loads((tmp_path / "out" / "pareto.json").read_text())
    assert [point["spike_cost"] for point in curve["points"]] == [0.5, 0.0]
    assert (tmp_path / "out" / "pareto.png").read_bytes()[:4] == b"\x89PNG"
    assert "Events against error on 24 images" in capsys.readouterr().out


def test_convert_cifar_writes_the_report(
    monkeypatch, images_file: Path, tmp_path: Path, converted: Converted
) -> None:
    assert (converted.folder / "steps.png").read_bytes()[:4] == b"\x89PNG"
    page = (converted.folder / "report.html").read_text(encoding="utf-8")
    assert "resnet8_digits as a few-spikes network" in page and "spiking, with memory" in page
    assert _convert(monkeypatch, images_file, tmp_path / "again") == 0
    report = converted.report
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert set(report) >= {
        "model", "steps", "method", "seed", "images", "calibration_images", "preprocessing",
        "versions", "latency_steps", "original", "spiking", "by_step", "by_K", "sites", "synaptic",
        "products", "remaining", "seconds",
    }  # fmt: skip
    assert set(report["spiking"]) >= {
        "accuracy", "agreement", "logit_rmse", "neurons", "spikes_per_image", "spikes_per_neuron",
        "spike_driven",
    }  # fmt: skip
    assert set(report["sites"][0]) >= {
        "name", "function", "steps", "low", "high", "mse", "relative_mse", "start", "neurons",
        "spikes_per_neuron",
    }  # fmt: skip
    assert [row["step"] for row in report["by_step"]] == [1, 2, 3, 4]
    assert set(report["by_step"][0]["raw"]) == {"accuracy", "agreement"}
    assert [row["steps"] for row in report["by_K"]] == [3]
    assert report["latency_steps"] == 4 * 7
    assert report["images"] == 24
    assert len(report["sites"]) == 7
    for key in ("accuracy", "agreement", "logit_rmse", "spikes_per_neuron"):
        assert report["by_step"][-1][key] == pytest.approx(report["spiking"][key], rel=1e-12)
    for found in (report, again):
        found.pop("seconds")
    assert report == again


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"data": "nowhere.npz"}, "nowhere.npz"),
        ({"weights": "nowhere.th"}, "nowhere.th"),
        ({"steps": "0"}, "step"),
        ({"steps": "2.5"}, "2.5"),
        ({"steps": "-1"}, "-1"),
        ({"model": "resnet21"}, "resnet20"),
        ({"method": "magic"}, "binary"),
        ({"calibration-size": "0"}, "0"),
        ({"data": "{empty}"}, "no images"),
        ({"data": "{labels}"}, "12"),
        ({"data": "{short}"}, "label"),
        ({"data": "{other}"}, "x"),
        ({"weights": "{code}"}, "plain weights"),
        ({"weights": "{foreign}"}, "resnet8_digits"),
        ({"size": "30", "model": "vit_small"}, "30"),
        ({"device": "nothing"}, "nothing"),
        ({"by-site": "-1"}, "-1"),
    ],
)
def test_refusals_are_one_readable_line(
    monkeypatch, capsys, images_file: Path, tmp_path: Path, changed: dict, named: str
) -> None:
    x = np.zeros((3, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "empty.npz", x=x[:0], y=np.zeros(0, np.int64))
    np.savez(tmp_path / "labels.npz", x=x, y=np.array([1, 12, 3]))
    np.savez(tmp_path / "short.npz", x=x, y=np.array([1, 2]))
    np.savez(tmp_path / "other.npz", pictures=x)
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"a": Path("somewhere")}))
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "foreign.pth")
    places = {p.stem: p for p in tmp_path.iterdir()}
    changed = {key: value.format(**places) for key, value in changed.items()}
    assert _convert(monkeypatch, images_file, tmp_path / "out", **changed) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if "error:" in line]) == 1
    assert not (tmp_path / "out").exists()


def test_traceback_on_request(monkeypatch, images_file: Path, tmp_path: Path) -> None:
    from models import DataError

    words = ["--model", "resnet20", "--weights", "random", "--data", tmp_path / "no.npz"]
    words += ["--calibration", images_file, "--steps", 3, "--output", tmp_path / "out"]
    with pytest.raises(DataError):
        _run(monkeypatch, "convert_cifar", *words, "--quiet", "--traceback")


@pytest.mark.parametrize("given", [["--low", -8, "--high", 12], ["--normal", 0.5, 2]])
def test_fit_activation_tells_the_truth(monkeypatch, tmp_path: Path, given: list) -> None:
    file, picture = tmp_path / "fits.json", tmp_path / "fits.png"
    words = ["silu", *given, "--steps", 3, 5, "--method", "binary"]
    assert _run(monkeypatch, "fit_activation", *words, "--json", file, "--plot", picture) == 0
    rng = np.random.default_rng(7)
    x = rng.uniform(-8, 12, 300_000) if "--low" in given else rng.normal(0.5, 2, 300_000)
    f = F.silu(torch.from_numpy(x)).numpy()
    rows = json.loads(file.read_text())
    assert [row["steps"] for row in rows] == [3, 5]
    for row in rows:
        v, y, spikes = x.copy(), np.full_like(x, row["y0"]), 0
        for T, h, d in zip(row["T"], row["h"], row["d"], strict=True):
            s = v > T
            y, v, spikes = y + d * s, v - h * s, spikes + s.mean()
        assert row["mse"] == pytest.approx(float(((y - f) ** 2).mean()), rel=0.05)
        assert row["spikes"] == pytest.approx(float(spikes), rel=0.05)
        assert {"seconds", "start"} <= set(row)
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "words",
    [
        ["nothing", "--low", "0", "--high", "1", "--steps", "3"],
        ["silu", "--low", "2", "--high", "1", "--steps", "3"],
        ["silu", "--low", "0", "--high", "1", "--steps", "0"],
        ["silu", "--steps", "3"],
        ["log", "--low", "-1", "--high", "1", "--steps", "3"],
        ["silu", "--low", "0", "--high", "1", "--steps", "3", "--seed", "-1"],
        ["silu", "--low", "0", "--high", "1", "--steps", "3", "--spike-cost", "-1"],
        "silu --low 0 --high 1 --steps 3 --spike-cost 1 --method binary".split(),
    ],
)
def test_fit_activation_refuses(monkeypatch, capsys, words: list[str]) -> None:
    assert _run(monkeypatch, "fit_activation", *words) == 2
    shown = capsys.readouterr()
    assert "error:" in shown.err
    assert "Traceback" not in shown.err
    # Nothing was compiled before, which takes half a minute where it is new.
    assert shown.out == ""


def test_quickstart(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the quickstart's digits come with scikit-learn")
    words = ["--steps", 4, "--method", "binary", "--epochs", 3, "--quiet", "--output", tmp_path]
    assert _run(monkeypatch, "quickstart", *words) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["images"] == 450
    assert report["original"]["accuracy"] > 0.9
    assert report["spiking"]["agreement"] > 0.95


@pytest.mark.parametrize(
    ("option", "value"),
    [("--steps", "0"), ("--method", "magic"), ("--epochs", "0"), ("--epochs", "x")],
)
def test_quickstart_refuses_before_it_trains(
    monkeypatch, capsys, tmp_path: Path, option: str, value: str
) -> None:
    assert _run(monkeypatch, "quickstart", option, value, "--output", tmp_path / "out") == 2
    shown = capsys.readouterr()
    assert repr(value) in shown.err and shown.out == ""


def test_evaluate_says_what_the_conversion_said(
    monkeypatch, capsys, converted: Converted, images_file: Path, tmp_path: Path
) -> None:
    written = converted.report
    words = [
        converted.network,
        "--data",
        images_file,
        "--by-site",
        4,
        "--json",
        tmp_path / "again.json",
    ]
    assert _run(monkeypatch, "evaluate", *words) == 0
    shown = capsys.readouterr()
    assert "agreement" in shown.out
    assert "agreement" not in shown.err
    again = json.loads((tmp_path / "again.json").read_text())
    for key in ("by_K", "by_step", "preprocessing", "products", "remaining", "sites", "spiking"):
        assert _but_logits(again[key]) == _but_logits(written[key]), key
    rmse = [report["spiking"]["logit_rmse"] for report in (written, again)]
    # The exact network stands in for the model: equal to rounding.
    assert rmse[0] == pytest.approx(rmse[1], rel=1e-3)


def _but_logits(value: Any) -> Any:
    """A report without its logit errors."""
    if isinstance(value, list):
        return [_but_logits(entry) for entry in value]
    if isinstance(value, dict):
        return {k: _but_logits(v) for k, v in value.items() if k != "logit_rmse"}
    return value


def test_evaluate_at_a_step_against_a_checkpoint(
    monkeypatch, capsys, converted: Converted, images_file: Path, tmp_path: Path
) -> None:
    import models

    torch.save(
        models.get("resnet8_digits", "random", activation="relu", seed=0).state_dict(),
        tmp_path / "same.pt",
    )
    words = [converted.network, "--data", images_file, "--step", 2, "--limit", 20]
    words += ["--quiet", "--json", "-"]
    assert _run(monkeypatch, "evaluate", *words, "--against", tmp_path / "same.pt") == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in report["by_step"]] == [2, 4]
    assert report["images"] == 20
    torch.save(
        models.get("resnet8_digits", "random", activation="relu", seed=1).state_dict(),
        tmp_path / "other.pt",
    )
    assert _run(monkeypatch, "evaluate", *words, "--against", tmp_path / "other.pt") == 0
    other = json.loads(capsys.readouterr().out)
    assert other["by_step"][-1]["logit_rmse"] > 5 * report["by_step"][-1]["logit_rmse"]


@pytest.fixture(scope="module")
def places(
    converted: Converted, images_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A converted network, the same cut off, and without metadata; and images."""
    import convert

    folder = tmp_path_factory.mktemp("places")
    (folder / "cut.fsnn").write_bytes(converted.network.read_bytes()[:-9])
    snn = convert.load(converted.network)
    snn.save(folder / "bare.fsnn", metadata={})
    snn.save(
        folder / "odd.fsnn",
        metadata={"preprocessing": "none", "model": "resnet8_digits", "activation": [1]},
    )
    return {
        "saved": converted.network,
        "images": images_file,
        "cut": folder / "cut.fsnn",
        "bare": folder / "bare.fsnn",
        "odd": folder / "odd.fsnn",
    }


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["{saved}", "--data", "nowhere.npz"], 4, "nowhere.npz"),
        (["nowhere.fsnn", "--data", "{images}"], 3, "nowhere.fsnn"),
        (["{images}", "--data", "{images}"], 3, "images.npz"),
        (["{cut}", "--data", "{images}"], 3, "truncated"),
        (["{saved}", "--data", "{images}", "--step", "9"], 2, "1 to 4"),
        (["{saved}", "--data", "{images}", "--step", "0"], 2, "whole number"),
        (["{saved}", "--data", "{images}", "--against", "nowhere.pt"], 4, "nowhere.pt"),
        (["{bare}", "--data", "{images}"], 2, "--mean"),
        (["{odd}", "--data", "{images}"], 2, "--mean"),
        (
            "{odd} --data {images} --size 8 --mean 0 --std 1 --classes 10 --against x.pt".split(),
            2,
            "activation",
        ),
        (["{bare}", "--data", "{images}", "--against", "{images}"], 2, "--mean"),
        (["{saved}", "--data", "{images}", "--min-accuracy", "1"], 5, "accuracy"),
        (["{saved}", "--data", "{images}", "--min-agreement", "1.5"], 2, "'1.5'"),
        (["{saved}", "--data", "{images}", "--min-accuracy", "nan"], 2, "'nan'"),
        (["{saved}", "--data", "{images}", "--min-accuracy", "-1"], 2, "'-1'"),
        (["{saved}", "--data", "{images}", "--mean", "0.5", "0.5"], 4, "channels"),
        (["{saved}", "--data", "{images}", "--std", "0"], 2, "'0'"),
        (["{saved}", "--data", "{images}", "--json", "{images}/a.json"], 2, "a.json"),
        (["{saved}", "--data", "{images}", "--step", "2", "--step", "3"], 2, "2 times"),
        (["", "--data", "{images}"], 3, "empty"),
        (["{saved}", "--data", "{images}", "--min-accuracy", "0"], 0, ""),
        (["{saved}", "--data", "{images}", "--device", "nothing"], 2, "nothing"),
        (["{saved}"], 2, "--data"),
        (["{saved}", "--data", "{images}", "--by-site", "-1"], 2, "'-1'"),
        (["{saved}", "--data", "{images}", "--metric", "magic"], 2, "'perplexity'"),
        (["{saved}", "--data", "{images}", "--metric", "iou"], 4, "metric='iou' needs logits"),
        ("{saved} --data {images} --metric output --min-accuracy 0.5".split(), 2, "no accuracy"),
        ("{saved} --data {images} --metric accuracy --min-accuracy 0".split(), 0, ""),
    ],
)
def test_evaluate_exit_codes(
    monkeypatch, capsys, places: dict[str, Path], words: list[str], code: int, named: str
) -> None:
    words = [word.format(**places) for word in words]
    assert _run(monkeypatch, "evaluate", *words, "--quiet") == code
    shown = capsys.readouterr()
    assert named in shown.err
    assert "Traceback" not in shown.err
    assert bool(shown.out) == (code in (0, 5))


@pytest.mark.parametrize("name", ["quickstart", "train_ddpm", "convert_ddpm"])
def test_an_empty_output_is_not_the_folder_that_one_is_in(name, monkeypatch, capsys) -> None:
    assert _run(monkeypatch, name, "--output", "") == 2
    assert "--output: the path is empty" in capsys.readouterr().err
