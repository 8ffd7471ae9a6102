"""The diffusion script: a small conversion, its report and its picture."""

import json
import sys
from pathlib import Path

import pytest
import torch
from support.one_capture import captured_once

import convert
import models
from convert.fitting import tbpi

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import convert_ddpm

    return convert_ddpm


def _run(script, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["convert_ddpm.py", *options, "--quiet"])
    try:
        return script.main()
    except SystemExit as ended:
        return int(ended.code or 0)


def test_report_and_picture(
    script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A tenth of the training is enough for the order of the methods.
    monkeypatch.setattr(tbpi, "_EPOCHS_FIRST", 1000)
    monkeypatch.setattr(tbpi, "_EPOCHS_THIRD", 2000)
    monkeypatch.setattr(convert, "to_spiking", captured_once(convert.to_spiking))
    code = _run(
        script, monkeypatch, "--steps", "4", "2", "--method", "random", "binary",
        "--samples", "16", "--sampling-steps", "8", "--sampler", "ddim", "--repeats", "1",
        "--limit", "60", "--by-site", "4", "--output", str(tmp_path),
    )  # fmt: skip
    assert code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {(row["method"], row["steps"]): row for row in report["by_K"]}
    assert list(rows) == [
        ("random", 2), ("random", 4), ("binary", 2), ("binary", 4)
    ]  # fmt: skip
    fine, coarse = rows["random", 4], rows["random", 2]
    for key in ("relative_error", "final_drift", "held_out_relative_error"):
        assert 0 < fine[key] < coarse[key]
    assert fine["relative_error"] < 0.35 < rows["binary", 4]["relative_error"]
    assert [step["t"] for step in fine["by_time"]][:2] == [199, 171]
    errors = [step["relative_error"] for step in fine["by_time"]]
    assert fine["relative_error"] == pytest.approx(sum(errors) / 8)
    yardsticks = report["yardsticks"]
    assert yardsticks["noise"]["recognised"] < fine["recognised"]
    assert fine["frechet_to_original"] < rows["binary", 4]["frechet_to_original"]
    assert set(yardsticks) == {
        "original", "original, another seed", "held-out digits", "noise"
    }  # fmt: skip
    assert report["evaluations"]["binary"]["metric"] == "output"
    assert (tmp_path / "samples.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "seed 0" in printed and "error on the way" in printed and "drift" in printed
    # The saved network is the one that was measured.
    snn = convert.load(tmp_path / "ddpm_digits_random.fsnn")
    model, _ = models.ddpm_digits()
    x, t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4) * 60
    with torch.no_grad():
        gap = (snn(x, t) - model(x, t)).square().mean().sqrt() / model(x, t).std()
    assert 0 < gap < 0.4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--sampling-steps", "201"], "1 to 200"),
        (["--samples", "1"], "at least 2"),
        (["--weights", "nowhere.pt"], "nowhere.pt"),
        (["--weights", "random"], "train it"),
        (["--seed", "-1"], "seed"),
        (["--limit", "1"], "digits"),
        (["--device", "nothing"], "nothing"),
    ],
)
def test_errors_end_in_one_line(
    script,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    named: str,
) -> None:
    given = {"--samples": "2", "--limit": "20", "--output": str(tmp_path / "out")}
    given |= {"--repeats": "1", "--sampling-steps": "2", "--steps": "2", "--method": "binary"}
    given |= {"--by-site": "0"} | dict([options])
    words = [word for pair in given.items() for word in pair]
    assert _run(script, monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and named in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options", [["--steps", "0"], ["--sampling-steps", "-3"], ["--samples", "x"]]
)
def test_what_is_no_count_is_refused(
    script,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    assert _run(script, monkeypatch, *options, "--output", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "whole number" in error and f"found {options[1]!r}" in error


def test_digits_need_scikit_learn(
    script,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert _run(script, monkeypatch, "--output", str(tmp_path)) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err
