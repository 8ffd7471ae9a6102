"""The examples run from the first cell to the last, on less data and without a search for fits."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.one_capture import captured_once
from torch import nn

import fewspikes
from fewspikes import models

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_FILES = sorted(_EXAMPLES.glob("*.py"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fits take no search, transformers have one layer, and a model is captured once.

    Nothing is downloaded or shows bars.
    """
    monkeypatch.chdir(tmp_path)
    convert, evaluate = captured_once(fewspikes.to_spiking), fewspikes.evaluate

    def to_spiking(*args: Any, **given: Any) -> Any:
        # A price needs the search; for one table it is short.
        less = {"gates": 0} if "spike_cost" in given else {"method": "binary"}
        return convert(*args, **{**given, "progress": False, **less})

    monkeypatch.setattr(fewspikes, "to_spiking", to_spiking)
    monkeypatch.setattr(fewspikes, "evaluate", partial(evaluate, progress=False))
    count = partial(fewspikes.inspect.count_operations, progress=False)
    monkeypatch.setattr(fewspikes.inspect, "count_operations", count)
    load_images, get = models.load_images, models.get

    def at_hand(source: str, **given: Any) -> models.Images:
        if source.startswith("cifar"):
            raise models.DataError(f"{source} can't be downloaded")
        return load_images(source, **given)

    def shallow(name: str) -> nn.Module:
        model = get(name)
        body = getattr(model, "encoder", model)
        for part in ("layers", "blocks"):
            if hasattr(body, part):
                setattr(body, part, getattr(body, part)[:1])
        return model

    for package in (models, models._ours()):
        monkeypatch.setattr(package, "load_images", at_hand)
        monkeypatch.setattr(package, "get", shallow)


def _run(name: str, **sizes: int) -> dict[str, Any]:
    """Runs an example with other sizes, which stand in one line of capital names.

    Returns:
        All that it defines.
    """
    text = (_EXAMPLES / name).read_text(encoding="utf-8")
    found = re.search(r"^([A-Z]+(?:, [A-Z]+)*) = ([\d, ]+)$", text, re.MULTILINE)
    assert found, "no line with sizes"
    names = found[1].split(", ")
    values = dict(zip(names, found[2].split(", "), strict=True)) | sizes
    assert list(values) == names
    text = text.replace(found[0], f"{found[1]} = {', '.join(map(str, values.values()))}")
    defined: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), defined)
    return defined


def _digits() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


def test_quickstart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _digits()
    found = _run("quickstart.py", CALIBRATION=64, TEST=60)
    assert found["result"].spiking.agreement > 0.9
    assert [row.steps for row in found["result"].by_K] == [8]
    said = capsys.readouterr().out
    assert "K = 8: accuracy" in said and "K = 4: accuracy" in said
    assert said.endswith("the same outputs: True\n")
    assert {path.name for path in tmp_path.iterdir()} == {"digits.fsnn", "quickstart.png"}


def test_vision_transformer(capsys: pytest.CaptureFixture[str]) -> None:
    _digits()
    found = _run("vision_transformer.py", CALIBRATION=32, TEST=32)
    said = capsys.readouterr().out
    assert not found["labelled"] and "Digits take the place of CIFAR-10." in said
    assert "left as it was: nothing" in said
    assert "nonlinear outside neurons: none" in said
    assert found["result"].spiking.agreement > 0.5  # ten classes


def test_language_model() -> None:
    found = _run("language_model.py", TEXTS=4, LENGTH=64, WRITTEN=12)
    assert all(len(text) == 64 for text in found["own"])
    original, spiking = found["result"].original, found["result"].spiking
    assert abs(spiking.perplexity / original.perplexity - 1) < 0.3
    assert 0 < spiking.divergence < 0.3
    for text in found["written"].values():
        assert text.startswith(b"ROMEO:\n") and len(text) == 7 + 12


def test_energy() -> None:
    _digits()
    found = _run("energy.py", CALIBRATION=64, TEST=40)
    images = [counts.to_dict()["per_image"] for counts in found["counts"].values()]
    plain, gated, priced = (image["events"] for image in images)
    assert plain < gated and priced < gated
    assert len({image["dense_multiply_accumulates"] for image in images}) == 1
    assert {"arithmetic", "with_memory", "quantised_dense"} <= {*found["rows"]}


@pytest.mark.filterwarnings("ignore:the model's outputs differ", "ignore:K = 2.*POOR")
def test_fine_tuning() -> None:
    _digits()
    found = _run("fine_tuning.py", CALIBRATION=300, TEST=100, EPOCHS=1)
    assert found["after"].logit_rmse < 0.8 * found["before"].logit_rmse
    assert found["snn"].steps == 2


def test_every_example_is_run_and_listed() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    listed = (_EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in _FILES:
        assert f'_run("{path.name}"' in tests
        assert f"({path.name})" in listed


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_notebooks(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason="makes notebooks of the examples")
    notebook = jupytext.read(path)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and kinds.count("code") >= 2
    assert notebook.cells[0].source.startswith("# ")
