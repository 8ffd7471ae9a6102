"""Networks that nobody named a metric for: classes where they are, else the outputs' error."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convert import InputError, SpikingModel, evaluate, to_spiking
from convert.calls.batch_forms import Given
from convert.evaluation.choice import suitable
from convert.evaluation.measures import outputs_of

RANDOM = torch.Generator().manual_seed(0)
TWO = torch.randn(12, 4, generator=RANDOM)
ONE = TWO[:, :1]
TEXT = torch.randn(12, 5, 4, generator=RANDOM)
DENSE = torch.randn(12, 4, 3, 3, generator=RANDOM)
Y = torch.arange(12) % 4


def chosen(output: Any, label: Any = None, x: Tensor = TWO) -> tuple[str, str]:
    return suitable(Given((x,), {}, label, ("x",)), outputs_of(output))


@pytest.mark.parametrize(
    ("output", "label"),
    [
        (TWO, None),
        (TWO, Y),
        (TWO, Y[:, None]),
        (TWO, Y.float()),
        (TWO, Y.tolist()),
        (TWO, F.one_hot(Y, 4)),
        (TWO, TWO.softmax(1)),  # refused with the way round
        (TWO, Y + 1),  # wrong classes stay an error
        (TWO, ["cat"] * 12),
        (TWO, Y[:-1]),
        (TWO.softmax(1), None),
        (ONE, Y % 2),
        (ONE, (Y % 2)[:, None].float()),
        ({"logits": TWO}, None),
        ((TWO, TEXT), Y),
        (TEXT, torch.zeros(12, 4).long()),
        (DENSE, torch.zeros(12, 3, 3).long()),
        (DENSE, torch.full((12, 1, 3, 3), 255)),
        (DENSE[:, :1], torch.zeros(12, 3, 3).long()),
    ],
)
def test_classes(output: Any, label: Any) -> None:
    name, note = chosen(output, label)
    assert name == "agreement"
    # Without labels it is a guess by the shape, unless the model says so.
    told = label is None and not isinstance(output, dict)
    assert note == told * note and ("taken to be logits of 4 classes" in note) == told


@pytest.mark.parametrize(
    ("output", "label", "why"),
    [
        (TWO[:, 0], None, "one number for each image"),
        (ONE, None, "one number for each image, without labels"),
        (ONE, torch.rand(12), "no whole numbers"),
        (ONE, torch.rand(12, 1), "no whole numbers"),
        (ONE, torch.arange(12.0), "aren't 0 and 1"),
        (TWO, torch.rand(12), "no whole numbers"),
        (TWO, torch.rand(12, 4) - 0.5, "values as the outputs"),
        (TWO, torch.randint(9, (12, 4), generator=RANDOM) * 7, "values as the outputs"),
        (TWO, torch.ones(12, 4), "several classes"),
        (F.normalize(TWO), None, "length 1"),
        (F.normalize(TWO), Y, "length 1"),
        ({"last_hidden_state": TEXT, "pooler_output": TWO}, None, "'last_hidden_state'"),
        ({"embeddings": TWO}, Y, "'embeddings'.*aren't looked at"),
        (TEXT, None, "come without labels"),
        (TEXT, torch.zeros(12, 5).long(), "axis 1.*'perplexity'"),
        (torch.randn(12, 4, 4), torch.zeros(12, 4).long(), "axis 1"),
        (DENSE, None, r"\[N, 4, 3, 3\] come without"),
        (DENSE, DENSE, "values as the outputs"),
        (DENSE[:, :1], torch.rand(12, 1, 3, 3), "no whole numbers"),
        (DENSE, torch.zeros(12, 6, 6).long(), "'iou'"),
        (TWO, (Y, Y), "2 labels"),
        (TWO, {"boxes": Y, "masks": Y}, "dict of several"),
        (TWO, [{"boxes": Y}] * 12, "list of dicts"),
        (DENSE, ["a"] * 12, "no numbers"),
    ],
)
def test_what_is_no_class(output: Any, label: Any, why: str) -> None:
    name, note = chosen(output, label)
    assert name == "output" and "\n" not in note
    assert re.search(why, note), note


def test_vectors_of_texts() -> None:
    ids = torch.zeros(12, 5).long()
    assert chosen(TWO, None, ids)[0] == "output"
    assert chosen({"logits": TWO}, None, ids)[0] == chosen(TWO, Y, ids)[0] == "agreement"


class Net(nn.Module):
    """Outputs of several kinds from images."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3, 5)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        y = F.silu(self.conv(x))
        vector = self.line(y.mean((2, 3)))
        return {
            "dense": y,
            "regression": vector[:, :1],
            "embedding": vector / vector.square().sum(1, keepdim=True).sqrt(),
            "tokens": self.line(y.flatten(2).transpose(1, 2)),
        }[self.kind]


@pytest.mark.parametrize("kind", ["dense", "regression", "embedding", "tokens"])
def test_no_accuracy_of_what_has_none(images: Tensor, kind: str) -> None:
    torch.manual_seed(0)
    model = Net(kind).eval()
    snn = to_spiking(model, images, steps=4, method="binary", progress=False)
    label = {
        "dense": images.expand(-1, 3, -1, -1),
        "regression": torch.rand(48),
        "embedding": torch.arange(48) % 5,
        "tokens": torch.zeros(48, 64).long(),
    }[kind]
    for data in ([images], [(images, label)]):
        found = evaluate(snn, model, data, at=[], by_site=2, progress=False)
        report = found.to_dict()
        assert found.metric == "output" and "accuracy" not in report["spiking"]
        assert 0 < found.spiking.relative_error < 2
        assert any("metric='output'" in note for note in report["evaluation_notes"])
    # Asked for, it is refused or told.
    if kind in ("dense", "regression"):
        with pytest.raises(InputError) as caught:
            evaluate(snn, model, [(images, label)], metric="accuracy", progress=False)
        assert "\n" not in str(caught.value)


def test_accuracy_needs_labels(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    given: dict[str, Any] = {"metric": "accuracy", "at": [], "by_site": 0, "progress": False}
    found = evaluate(converted, small, [(images, labels)], **given)
    plain = evaluate(converted, small, [(images, labels)], at=[], by_site=0, progress=False)
    assert found.spiking == plain.spiking and found.metric == "accuracy"
    with pytest.raises(InputError, match="no labels, which metric='accuracy' needs"):
        evaluate(converted, small, [(images[:9], labels[:9]), images[9:]], **given)
    with pytest.raises(InputError, match="no image has a label that is a class"):
        evaluate(converted, small, [(images, torch.full((48,), -100))], **given)
    with pytest.raises(InputError, match="no logits"):
        evaluate(converted, Flat(small), [(images, labels)], **given)


class Flat(nn.Module):
    """The first logit alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[:, 0]
