"""The examples of the documentation run as they stand, in order."""

import copy
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convert
import models
from convert import evaluate, load, to_spiking
from convert.evaluation.metrics import METRICS, Metric

_ROOT = Path(__file__).resolve().parents[1]
_DOCS = _ROOT / "docs"
_PAGES = [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *sorted(_DOCS.glob("*.md"))]


def test_reuse(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="the last example exports to ONNX")
    monkeypatch.chdir(tmp_path)
    text = (_DOCS / "reuse.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 7
    names: dict[str, Any] = {
        "snn": to_spiking(small, images, steps=4, method="binary", progress=False),
        "images": images,
        "labels": torch.arange(len(images)) % 4,
        "torch": torch,
        "nn": nn,
        "F": F,
        "copy": copy,
    }
    for example in examples:
        exec(compile(example, "docs/reuse.md", "exec"), names)
    assert names["early"].shape == (48, 4)
    assert names["finer"].steps == 6 and names["other"].steps == 4
    assert names["logits"].dtype == torch.float16
    assert (tmp_path / "net.onnx").stat().st_size > 1000
    assert len(names["table"].theta) == 4


def test_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision", reason="its detector is an example")
    pytest.importorskip("transformers", reason="its language model is an example")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = (_DOCS / "parts.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 5
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "torchvision": torchvision,
        "batches": [torch.randn(16, 8) for _ in range(2)],
        "images": torch.randn(5, 8),
        "pictures": [torch.rand(3, 64, 80) for _ in range(2)],
        "targets": [{}, {}],
        "tokens": torch.randint(3, 50, (4, 12)),
    }
    for example in examples:
        # The heads are captured in a moment; tests of parts have a small backbone.
        example = example.replace('"backbone", "rpn.head"', '"rpn.head"')
        quick = re.sub(r"steps=(\d)", r"steps=\1, method='binary', progress=False", example)
        exec(compile(quick, "docs/parts.md", "exec"), names)
    assert names["classes"].shape == (5,)
    assert set(names["detections"][0]) == {"boxes", "labels", "scores"}
    assert names["text"].shape == (1, 13)


def test_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    text = (_DOCS / "diffusion.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    # Two steps of a binary table are fitted in a moment.
    example = example.replace("steps=8", "steps=2, method='binary', progress=False")
    every = models.load_images
    monkeypatch.setattr(models, "load_images", lambda *a, **given: every(*a, **given).first(100))
    exec(compile(example, "docs/diffusion.md", "exec"), names)
    assert 0 < names["result"].spiking["relative_error"] < 1
    assert names["digits"].shape == (16, 1, 8, 8)


def test_peers(small: nn.Module, images: Tensor) -> None:
    pytest.importorskip("neurobench", reason="the example runs its counters")
    text = (_DOCS / "peers.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {
        "snn": to_spiking(small, images, steps=4, method="binary", progress=False),
        "images": images[:8],
        "labels": torch.arange(8) % 4,
    }
    exec(compile(example, "docs/peers.md", "exec"), names)
    ours = names["ours"]["accumulates"]
    assert names["spikingjelly"] == pytest.approx(ours) and ours > 0
    assert names["neurobench"] == pytest.approx(ours)
    assert len(names["by_layer"]) > 1


def test_architecture(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (_DOCS / "architecture.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 5
    snn = to_spiking(small, images, steps=4, method="binary", progress=False)
    names: dict[str, Any] = {
        "model": small, "snn": snn, "images": images, "torch": torch, "nn": nn, "copy": copy,
    }  # fmt: skip
    try:
        for example in examples:
            exec(compile(example, "docs/architecture.md", "exec"), names)
    finally:
        convert.fitting.methods.unregister_method("line")
    assert "blur" in {row["op"] for row in names["blurred"].report.to_dict()["synaptic"]}
    assert [row.function for row in names["swished"].report.sites] != ["swish"]
    assert names["lined"].report.method == "line"
    # It leaks, so it fires less often; read out after 3 of its steps.
    with snn.count_spikes() as spikes, snn.readout(3):
        snn(images)
    assert 0 < names["spikes"]["act"] < spikes["act"]
    # The measure has all that an evaluation asks of one.
    monkeypatch.setitem(METRICS, Metric.OUTPUT, names["LargestGap"])
    result = evaluate(snn, small, images, metric="output", progress=False)
    assert result.spiking["largest_gap"] == pytest.approx(names["measure"].values.largest_gap)
    assert "largest gap" in str(result)
    result.to_json(tmp_path / "report.json")
    result.plot(tmp_path / "steps.png")


def test_contributing(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests" / "data").mkdir(parents=True)
    snn = to_spiking(small, images, steps=3, method="binary", progress=False)
    exec(
        compile(example, "CONTRIBUTING.md", "exec"), {"snn": snn, "images": images, "torch": torch}
    )
    (path,) = (tmp_path / "tests" / "data").glob("v2_*.fsnn")
    kept = load(path).metadata
    with torch.no_grad():
        assert torch.allclose(snn(torch.tensor(kept["input"])), torch.tensor(kept["output"]))


def test_every_room_has_its_line() -> None:
    text = (_DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (_ROOT / "convert").glob("*/__init__.py")}
    told = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", text, re.MULTILINE)
    assert sorted(told) == sorted(rooms | {"errors"})


def test_the_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(_DOCS))
    import draw_rooms

    rooms = draw_rooms.read_rooms()
    assert set(rooms.modules) == {*draw_rooms.COLUMNS, *draw_rooms.EVERYWHERE}
    assert rooms.imports["rewrite", "graph"] > 0
    assert set(rooms.lazy) == {("network", "storage"), ("parts", "storage")}
    arrows = rooms.arrows()
    assert ("assembly", "network") in arrows and ("assembly", "graph") not in arrows
    assert all(rooms.height(upper) > rooms.height(lower) for upper, lower in arrows)
    draw_rooms.draw(rooms, tmp_path / "rooms.png")
    assert (tmp_path / "rooms.png").stat().st_size > 10_000
    monkeypatch.setitem(draw_rooms.COLUMNS, "evaluation", draw_rooms.COLUMNS["assembly"])
    with pytest.raises(ValueError, match="one place"):
        draw_rooms.draw(rooms, tmp_path / "rooms.png")


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_modules_and_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"(?<![\w./])(?:\w+/)+\w+\.py\b", text)
    missing = [f for f in files if not any((b / f).is_file() for b in (_ROOT, _ROOT / "convert"))]
    assert not missing
    for name in re.findall(r"\bconvert(?:\.\w+)+", text):
        assert pkgutil.resolve_name(name)


@pytest.mark.parametrize("page", [*_PAGES, _ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
    # A capital word on a line of its own is a place that nobody filled in.
    assert not re.findall(r"^[A-Z]{4,}$", text, re.MULTILINE)
