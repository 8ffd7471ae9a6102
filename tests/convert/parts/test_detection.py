"""torchvision's detectors, whose boxes are suppressed in Python."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.models_with_parts import converted
from torch import nn

from convert import CaptureError, load, to_spiking

pytest.importorskip("torchvision", reason="detectors are torchvision's")
from torchvision.models import detection
from torchvision.models.detection.rpn import AnchorGenerator

IMAGES = [torch.rand(3, 64, 80), torch.rand(3, 64, 80)]
PARTS = ["backbone", "rpn.head", "roi_heads.box_head"]


def _detector() -> nn.Module:
    """Faster R-CNN with a backbone of two layers."""
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU()
    )
    backbone.out_channels = 8  # type: ignore[assignment]
    return detection.FasterRCNN(
        backbone,
        num_classes=5,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
        box_detections_per_img=20,
    ).eval()


def _equal(found: Any, expected: Any) -> bool:
    return all(
        torch.equal(a[name], b[name]) for a, b in zip(found, expected, strict=True) for name in a
    )


def test_faster_rcnn_by_its_parts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _detector()
    with pytest.raises(CaptureError, match=r'modules=\["backbone", "rpn.head", "roi_heads.box_he'):
        to_spiking(model, [(IMAGES, [{}, {}])], method="binary", progress=False)
    snn = converted(model, [(IMAGES, [{}, {}])], PARTS, steps=4)
    assert [row.name for row in snn.report.parts] == PARTS
    assert "roi_heads.box_predictor" in snn.report.python
    with torch.no_grad():
        found = snn(IMAGES)
        assert set(found[0]) == {"boxes", "labels", "scores"}
        with snn.spiking_only(()):
            assert [len(a["boxes"]) for a in snn(IMAGES)] == [
                len(b["boxes"]) for b in model(IMAGES)
            ]
        snn.save(tmp_path / "parts.fsnn")
        back = load(tmp_path / "parts.fsnn", model=model)
        assert _equal(back(IMAGES), found) and str(back.report) == str(snn.report)
