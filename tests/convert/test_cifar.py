"""The whole line on a real network and real images."""

from pathlib import Path

import pytest

import models
from convert import evaluate, to_spiking
from models.data import Loader


@pytest.mark.parametrize(("method", "steps"), [("tbpi", [8]), ("binary", [8, 5])])
def test_resnet20(shared: Path, method: str, steps: list[int]) -> None:
    model = models.get("resnet20", weights=shared / "checkpoints" / "resnet20-12fca82f.th")
    preprocessing = models.preprocessing("resnet20")
    calibration = models.load_images(shared / "data" / "cifar10_train4000.npz").first(256)
    test = models.load_images(shared / "data" / "cifar10_test1000.npz").first(250)
    snn = to_spiking(
        model, Loader(calibration, preprocessing), steps=steps, method=method, progress=False
    )
    result = evaluate(snn, model, Loader(test, preprocessing), by_site=0, at=[5, 7], progress=False)
    assert len(snn.sites) == 19
    assert result.original.accuracy == pytest.approx(0.915, abs=0.02)
    assert result.spiking.agreement >= 0.975
    assert [row.steps for row in result.by_K] == steps[1:]
    assert all(row.agreement >= 0.95 for row in result.by_K)
    agreements = [row.agreement for row in result.by_step]
    assert agreements[0] >= 0.80
    assert agreements[-1] >= max(agreements) - 0.005
    assert result.spiking.spike_driven > 0.95
