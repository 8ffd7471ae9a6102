"""The examples of the documentation run as they stand, in order."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convert import to_spiking

_DOCS = Path(__file__).resolve().parents[1] / "docs"


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


def test_diffusion() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    text = (_DOCS / "diffusion.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    # Two steps are fitted in a moment.
    example = example.replace("steps=8", "steps=2, progress=False")
    exec(compile(example, "docs/diffusion.md", "exec"), names)
    assert 0 < names["result"].spiking["relative_error"] < 1
    assert names["digits"].shape == (16, 1, 8, 8)


@pytest.mark.parametrize(
    "page",
    [_DOCS.parent / "README.md", *sorted(_DOCS.glob("*.md"))],
    ids=lambda page: page.name,
)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
    # A capital word on a line of its own is a place that nobody filled in.
    assert not re.findall(r"^[A-Z]{4,}$", text, re.MULTILINE)
