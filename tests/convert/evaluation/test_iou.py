"""Intersection over union, equal to that of torchmetrics, and of networks with dict outputs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convert import InputError, IoU, evaluate, to_spiking
from convert.evaluation.measures import outputs_of

CLASSES = 4


class Segmenter(nn.Module):
    """Classes of pixels in a dict, at full size or half."""

    def __init__(self, half: bool = False, classes: int = CLASSES) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, stride=2 if half else 1)
        self.aux, self.second = nn.Conv2d(8, classes, 1), nn.Conv2d(8, classes, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.silu(self.first(x))
        return {"aux": self.aux(x), "out": 3 * self.second(x)}


def _maps(size: int = 8, seed: int = 0) -> Tensor:
    """Random class maps ``[48, size, size]``, some pixels 255."""
    random = torch.Generator().manual_seed(seed)
    maps = torch.randint(CLASSES, (48, size, size), generator=random)
    return maps.masked_fill(torch.rand(maps.shape, generator=random) < 0.2, 255)


def _added(logits: Tensor, exact: Tensor, maps: Any, **given: Any) -> IoU:
    measure = IoU(**given)
    outputs = outputs_of(exact)
    measure.add(outputs_of(logits), outputs, measure.labels(maps, outputs))
    return measure


@pytest.mark.parametrize("missing", [False, True])
def test_equals_torchmetrics(missing: bool) -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="its index is what is compared with")
    logits = torch.randn(48, CLASSES, 8, 8, generator=torch.Generator().manual_seed(1))
    maps = _maps()
    if missing:  # a class that occurs in neither isn't part of the mean
        maps[maps == 2] = 1
        logits[:, 2] = -9
    other = torchmetrics.JaccardIndex(task="multiclass", num_classes=CLASSES, ignore_index=255)
    measure = IoU()
    for part, classes in zip(logits.split(20), maps.split(20), strict=True):
        other.update(part, classes)
        outputs = outputs_of(part)
        measure.add(outputs, outputs, measure.labels(classes, outputs))
    assert measure.values.iou == pytest.approx(float(other.compute()), abs=1e-6)
    assert (measure.values.by_class[2] is None) == missing
    known = maps != 255
    right = (logits.argmax(1) == maps)[known]
    assert measure.values.accuracy == pytest.approx(float(right.double().mean()))
    assert measure.values.agreement == 1 and measure.values.logit_rmse == 0


def test_a_class_that_is_ignored() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="its index is what is compared with")
    logits = torch.randn(48, CLASSES, 8, 8, generator=torch.Generator().manual_seed(1))
    maps = torch.randint(CLASSES, (48, 8, 8), generator=torch.Generator().manual_seed(2))
    measure = _added(logits, logits, maps, ignore=0)
    each = torchmetrics.JaccardIndex(
        task="multiclass", num_classes=CLASSES, ignore_index=0, average="none"
    )
    expected = each(logits, maps).tolist()
    assert list(measure.values.by_class[1:]) == pytest.approx(expected[1:], abs=1e-6)
    with pytest.raises(InputError, match="ignore= must be a whole number or None, found 'void'"):
        IoU(ignore="void")  # type: ignore[arg-type]


@pytest.mark.parametrize("half", [False, True])
def test_of_a_network(images: Tensor, half: bool) -> None:
    torch.manual_seed(0)
    model, maps = Segmenter(half).eval(), _maps()
    snn = to_spiking(model, images, steps=[4, 2], method="binary", progress=False)
    data = [(images[:20], maps[:20]), (images[20:], maps[20:])]
    result = evaluate(snn, model, data, metric="iou", by_site=6, progress=False)

    def by_hand(network: nn.Module) -> float:
        with torch.no_grad():
            logits = network(images)["out"]
        if half:
            logits = F.interpolate(logits, (8, 8), mode="bilinear", align_corners=False)
        predicted, known = logits.argmax(1), maps != 255
        shares = []
        for c in range(CLASSES):
            here, there = (predicted == c) & known, (maps == c) & known
            shares.append(float((here & there).sum() / (here | there).sum()))
        return sum(shares) / CLASSES

    assert result.original.iou == pytest.approx(by_hand(model), abs=1e-6)
    assert result.spiking.iou == pytest.approx(by_hand(snn), abs=2e-3)
    with snn.readout(1):
        assert result.by_step[0].iou == pytest.approx(by_hand(snn), abs=2e-3)
    with snn.with_steps(2):
        assert result.by_K[0].iou == pytest.approx(by_hand(snn), abs=2e-3)
    assert result.by_step[-1].measures == result.spiking.measures
    assert result.by_site[0]["iou"] > 0 and len(result.original.by_class) == CLASSES
    assert any("output['out'] is measured" in note for note in result.notes)
    assert any("enlarged to the labels' 8 x 8" in note for note in result.notes) == half
    assert result.labelled_images == 48 and "mean IoU" in str(result)


def test_the_default_of_a_segmentation(images: Tensor) -> None:
    torch.manual_seed(0)
    model, maps = Segmenter().eval(), _maps()
    snn = to_spiking(model, images, steps=3, method="binary", progress=False)
    with torch.no_grad():
        right = (model(images)["out"].argmax(1) == maps)[maps != 255]
    found = evaluate(snn, model, [(images, maps)], at=[], by_site=0, progress=False)
    # Of the output called out, not of the first one.
    assert found.original.accuracy == pytest.approx(float(right.double().mean()))
    found = evaluate(snn, model, images, at=[], by_site=0, progress=False)
    assert found.metric == "output" and "come without labels" in found.notes[0]
    small = _maps(16)
    found = evaluate(snn, model, [(images, small)], at=[], by_site=0, progress=False)
    assert found.metric == "output" and "metric='iou'" in found.notes[0]


def test_one_logit_and_forms_of_labels() -> None:
    logits = torch.randn(3, 1, 4, 6, generator=torch.Generator().manual_seed(1))
    maps = (torch.arange(72).view(3, 4, 6) % 3 == 0).long()
    predicted = logits[:, 0] > 0
    shares = [
        float(((predicted == c) & (maps == c)).sum() / ((predicted == c) | (maps == c)).sum())
        for c in (0, 1)
    ]
    for label in (maps, maps[:, None], maps.numpy().astype("uint8"), {"mask": 0, "labels": maps}):
        assert _added(logits, logits, label).values.by_class == pytest.approx(shares)
    four = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(1))
    one_hot = F.one_hot(maps, 2).movedim(-1, 1)
    for label in (one_hot, one_hot.float()):
        assert _added(four, four, label).values == _added(four, four, maps).values


def test_what_has_no_prediction_belongs_to_no_class() -> None:
    exact = torch.zeros(2, 2, 2, 2)
    exact[:, 1] = 1
    found = exact.clone()
    found[1, 0, 0, 0] = math.nan
    values = _added(found, exact, torch.ones(2, 2, 2).long()).values
    assert values.iou == values.agreement == values.accuracy == 7 / 8
    assert values.without_prediction == 1 and values.by_class == (None, 7 / 8)


@pytest.mark.parametrize(
    ("label", "named"),
    [
        (torch.full((2, 4, 4), 4), "to 4.*4 classes"),
        (torch.full((2, 4, 4), 255), "no pixel has a label"),
        (torch.zeros(2, 2, 2).long(), "of the outputs' size, or larger"),
        (torch.zeros(2, 4, 8).long(), "in the same proportion"),
        (torch.zeros(2).long(), r"\(2,\).*\(2, 4, 4\)"),
        (torch.full((2, 4, 4), 0.5), "no whole numbers"),
        ([torch.zeros(2, 4, 4).long(), torch.zeros(2).long()], "2 labels"),
        (["a", "b"], "text"),
    ],
)
def test_bad_labels_are_one_line(label: Any, named: str) -> None:
    logits = torch.zeros(2, 4, 4, 4)
    with pytest.raises(InputError, match=named) as caught:
        _added(logits, logits, label).check()
    assert "\n" not in str(caught.value)


def test_networks_and_data_without_classes_of_pixels(
    images: Tensor, small: nn.Module, converted: Any, labels: Tensor
) -> None:
    with pytest.raises(InputError, match=r"logits \[N, classes, H, W\].*returns \[48, 4\]"):
        evaluate(converted, small, [(images, labels)], metric="iou", progress=False)
    model = Segmenter().eval()
    snn = to_spiking(model, images, steps=2, method="binary", progress=False)
    for batch in (images, (images, {"path": ["a"] * 48})):
        with pytest.raises(InputError, match="no labels, which metric='iou' needs"):
            evaluate(snn, model, [batch], metric="iou", progress=False)
