"""The examples of the documentation run as they stand, in order."""

import copy
import pkgutil
import re
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import convert
import models
from convert import load, to_spiking

_ROOT = Path(__file__).resolve().parents[1]
_DOCS = _ROOT / "docs"
_BESIDE = ("README.md", "CONTRIBUTING.md", "examples/README.md")
_PAGES = [*(_ROOT / name for name in _BESIDE), *sorted(_DOCS.rglob("*.md"))]

# Tiny networks of few steps and binary tables are poor, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*which is POOR:UserWarning")


def _examples(page: str, changes: dict[str, str]) -> list[str]:
    """The examples of a page, with changes for tiny data; each must be of use."""
    text = "\n".join(re.findall(r"```python\n.*?```", (_DOCS / page).read_text("utf-8"), re.DOTALL))
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


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


def test_hand_over(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, why in (("nir", "a file of NIR"), ("onnxscript", "ONNX")):
        pytest.importorskip(name, reason=f"an example writes {why}")
    monkeypatch.chdir(tmp_path)
    text = (_DOCS / "hand-over.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 4
    snn = to_spiking(small, images, steps=3, method="binary", progress=False)
    names: dict[str, Any] = {"snn": snn, "images": images, "torch": torch, "nn": nn}
    for example in examples:
        if "import nir, nirtorch" in example and find_spec("nirtorch") is None:
            continue
        exec(compile(example, "docs/hand-over.md", "exec"), names)
        if "read" in names:
            torch.testing.assert_close(names["outputs"], snn(images), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(names["logits"], snn(images), rtol=1e-3, atol=1e-3)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"net.pt", "net.nir", "small.nir", "net.onnx", "spikes.onnx"}


class _Encoder(nn.Module):
    """One attention layer over tokens with positions, and the mean over what isn't padded."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(30, 8), nn.Embedding(20, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.inner, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.tokens(input_ids) + self.positions(places)
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        hidden = attention_mask[:, None] == 0
        weights = scores.masked_fill(hidden, torch.finfo(x.dtype).min).softmax(-1)
        x = F.gelu(self.inner(x + weights @ self.value(x)))
        return self.head(x[:, 0])


def test_hardware(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (_DOCS / "hardware.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    snn = to_spiking(small, images, steps=4, method="binary", progress=False)
    names: dict[str, Any] = {"snn": snn, "images": images}
    exec(compile(example, "docs/hardware.md", "exec"), names)
    assert names["logits"].shape == (48, 4)
    assert {p.name for p in (tmp_path / "chip").iterdir()} == {
        "network.json", "network.npz", "reference.c",
    }  # fmt: skip


def test_shapes() -> None:
    text = (_DOCS / "shapes.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 3
    torch.manual_seed(0)
    lengths = [7, 12, 9]
    names: dict[str, Any] = {
        "torch": torch,
        "encoder": _Encoder().eval(),
        "texts": [
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            for ids in (torch.randint(0, 30, (64, n)) for n in lengths)
        ],
        "pictures": nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        ).eval(),
        "images": torch.rand(8, 3, 24, 24),
    }
    for example in examples:
        # The first network is fitted as the page says, for fewer steps; the others in a moment.
        quick = example.replace("texts[:1], steps=8", "texts[:1], steps=8, method='binary'")
        quick = quick.replace("texts, steps=8", "texts, steps=4")
        exec(compile(quick, "docs/shapes.md", "exec"), names)
    assert names["asked"].report.method == "binary" != names["snn"].report.method
    assert [list(batch["input_ids"].shape) for batch in names["texts"]] == [
        [64, n] for n in lengths
    ]
    exact = names["encoder"](**names["longer"])
    for snn, most in ((names["snn"], 0.15), (names["asked"], 0.5)):
        gap = (snn(**names["longer"]) - exact).norm() / exact.norm()
        assert 0 < gap < most  # random positions that calibration never saw
        (note,) = [note for note in snn.report.notes if "length" in note]
        assert "takes length at most 20, as set at positions, a table of 20 rows" in note
        assert " ".join(note.split()) in " ".join(text.replace("`", "").split())
    assert names["classes"].shape == (2, 4)
    asked = 'dynamic={"input_ids": {1: "length"}, "attention_mask": {1: "length"}}'
    assert names["message"].endswith(asked) and asked in text.replace("\n  ", " ")


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
    # Two steps of a binary table are fitted in a moment; drawing visits a few of the time steps.
    quick = {
        "steps=8": "steps=2, method='binary', progress=False",
        'metric="output"': 'metric="output", by_site=4, progress=False',
        "8, 8), seed=0": "8, 8), seed=0, count=10",
    }
    (example,) = _examples("diffusion.md", quick)
    names: dict[str, Any] = {}
    every = models.load_images
    monkeypatch.setattr(models, "load_images", lambda *a, **given: every(*a, **given).first(40))
    exec(compile(example, "docs/diffusion.md", "exec"), names)
    assert 0 < names["result"].spiking["relative_error"] < 1
    assert names["digits"].shape == (16, 1, 8, 8)


def test_recurrence() -> None:
    text = (_DOCS / "recurrence.md").read_text(encoding="utf-8")
    # Two steps of a binary table are fitted in a moment, and short sequences captured sooner.
    quick = {
        "steps=8": "steps=2, method='binary', progress=False",
        "128, 6, 4": "128, 3, 4",
        "128, 7, 4": "128, 4, 4",
        "randint(1, 7": "randint(1, 4",
    }
    examples = _examples("recurrence.md", quick)
    assert len(examples) == 3
    names: dict[str, Any] = {}
    for example in examples:
        exec(compile(example, "docs/recurrence.md", "exec"), names)
    assert {row.calls for row in names["snn"].report.sites} == {3}
    assert names["same"] is names["snn"].sites["lstm.layer0.forward.input_gate"]
    for site in re.findall(r"`(\w+_gate|cell_tanh)`", text.partition("| GRU")[0]):
        assert f"lstm.layer0.reverse.{site}" in names["snn"].sites
    assert names["logits"].shape == (128, 3)
    assert names["answers"].shape == (16, 3)
    gates = {"input_gate", "forget_gate", "cell_gate", "output_gate", "cell_tanh"}
    cells = {site.rpartition(".") for site in names["cells"].sites}
    assert {site for *_, site in cells} == gates and len(cells) == 10


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


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (_DOCS / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    Image.new("RGB", (30, 40)).save(tmp_path / "7.png")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(tmp_path / "7.png", "cat/7.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/models.md", "exec"), names)
    ((x, y),) = names["batches"]
    assert y.tolist() == [7] and names["model"](x).shape == (1, 1000)


class _Language(nn.Module):
    """A causal language model of 9 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = (self.table(input_ids) * attention_mask[:, :, None]).cumsum(1)
        return {"logits": self.head(F.silu(x))}


class _Segmenter(nn.Module):
    """Four classes of pixels, as torchvision's networks return them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out, self.aux = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.pad(F.silu(self.body(x)), (1, 1, 1, 1))
        return {"out": self.out(x), "aux": self.aux(x)}


def test_measures(small: nn.Module, images: Tensor) -> None:
    pytest.importorskip("torchmetrics", reason="one example evaluates a metric of it")
    text = (_DOCS / "measures.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 5
    torch.manual_seed(0)
    mask = (torch.arange(6) < torch.tensor([[6], [4], [5]])).long()
    names: dict[str, Any] = {
        "lm": _Language().eval(),
        "texts": {"input_ids": torch.randint(1, 9, (3, 6)) * mask, "attention_mask": mask},
        "segmenter": _Segmenter().eval(),
        "maps": torch.randint(4, (48, 8, 8)).masked_fill(torch.rand(48, 8, 8) < 0.1, 255),
        "model": small,
        "snn": to_spiking(small, images, steps=4, method="binary", progress=False),
        "images": images,
        "labels": torch.arange(48) % 4,
    }
    measured = []
    for example in examples:
        exec(compile(example, "docs/measures.md", "exec"), names)
        measured.append(names["result"])
    assert [found.metric for found in measured] == [
        "perplexity", "perplexity", "iou", "MulticlassF1Score", "gaps"
    ]  # fmt: skip
    # The page names every key of the report.
    for found in measured:
        report = found.to_dict()
        for key in {*report["original"], *report["by_step"][0]["raw"]}:
            assert f"`{key}`" in text or found.metric in ("MulticlassF1Score", "gaps")


def test_architecture(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    text = (_DOCS / "architecture.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 6
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
    result = names["found"]
    assert result.spiking["largest_gap"] == pytest.approx(names["measure"].values.largest_gap)
    assert "largest gap" in str(result)
    result.to_json(tmp_path / "report.json")
    result.plot(tmp_path / "steps.png")


def test_report(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (_DOCS / "report.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {
        "model": small,
        "snn": to_spiking(small, images, steps=4, method="binary", progress=False),
        "images": images,
        "labels": torch.arange(48) % 4,
    }
    for example in examples[:2]:
        exec(compile(example, "docs/report.md", "exec"), names)
        assert "spiking, with memory" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "python my_script.py" in (tmp_path / "report.html").read_text(encoding="utf-8")
    exec(compile(examples[2], "docs/report.md", "exec"), names)
    assert "K = 4 and K = 6" in (tmp_path / "compare.html").read_text(encoding="utf-8")


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
    lazy = {("network", "storage"), ("parts", "storage"), ("network", "exporters")}
    assert set(rooms.lazy) == lazy
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
    for name in re.findall(r"\bconvert(?!\.py\b)(?:\.\w+)+", text):
        assert pkgutil.resolve_name(name)


@pytest.mark.parametrize("page", [*_PAGES, _ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
    # A capital word on a line of its own is a place that nobody filled in.
    assert not re.findall(r"^[A-Z]{4,}$", text, re.MULTILINE)
