"""Refitting a network without the model that it came from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convert import CalibrationError, ConversionError, audit, load, refit, to_spiking


def test_a_loaded_network_is_refitted_as_if_converted_anew(
    small: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    to_spiking(small, images, steps=4, method="binary", progress=False).save(tmp_path / "a.fsnn")
    back = load(tmp_path / "a.fsnn")
    before = {name: neuron.thresholds.clone() for name, neuron in back.sites.items()}
    settings = {"steps": [6, 2], "method": "tbpi-exact", "progress": False}
    for calibration in (None, images):
        found = refit(back, calibration, **settings)
        # Mean errors can't be measured without data.
        expected = to_spiking(small, images, sequential=calibration is not None, **settings)
        for name, neuron in expected.sites.items():
            assert torch.equal(found.sites[name].thresholds, neuron.thresholds)
            assert torch.equal(found.sites[name].missing_mean, neuron.missing_mean)
        old, new = expected.report.to_dict(), found.report.to_dict()
        assert any("mean error" in note for note in new.pop("notes")) == (calibration is None)
        old.pop("notes")
        assert old == new
        with torch.no_grad():
            assert torch.equal(expected(images), found(images))
            with expected.with_steps(2), found.with_steps(2):
                assert torch.equal(expected(images), found(images))
    # ... and is left as it was, also by what happens to the new one.
    found.network.first.weight.zero_()
    assert all(torch.equal(neuron.thresholds, before[n]) for n, neuron in back.sites.items())
    assert back.network.first.weight.abs().sum() > 0
    found.save(tmp_path / "b.fsnn")
    assert load(tmp_path / "b.fsnn").steps == 6


def test_products_and_encoding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu").eval()
    x = torch.randn(12, 5, 8)
    settings = {"method": "binary", "progress": False}
    to_spiking(model, x, steps=4, encode=True, **settings).save(tmp_path / "a.fsnn")
    back = load(tmp_path / "a.fsnn")
    settings["sequential"] = False
    expected = to_spiking(model, x, steps=6, encode=True, **settings)
    found = refit(back, steps=6, **settings)
    assert found.report.to_dict() == expected.report.to_dict()
    with torch.no_grad():
        assert torch.equal(found(x), expected(x))
    # Calibrated anew, a saved graph's layout lets some processors round sums otherwise.
    found = refit(back, x, steps=6, **settings)
    for row, other in zip(found.report.sites, expected.report.sites, strict=True):
        assert (row.name, row.function, row.steps) == (other.name, other.function, other.steps)
        assert (row.low, row.high) == pytest.approx((other.low, other.high), rel=1e-5)
    with torch.no_grad():
        difference = (found(x) - expected(x)).square().mean()
        assert difference < 0.01 * (expected(x) - model(x)).square().mean()
    assert audit(back, x).to_dict() == audit(refit(back, steps=4, **settings), x).to_dict()


def test_other_data_gives_another_range(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(small, images, steps=4, method="binary", progress=False)
    wide = refit(snn, [5 * images], steps=4, method="binary", progress=False)
    assert wide.histograms["silu"].high > 3 * snn.histograms["silu"].high
    assert wide.sites["silu"].thresholds[0] > 2 * snn.sites["silu"].thresholds[0]


def test_refusals(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(small, images, steps=4, method="binary", progress=False)
    snn.histograms = {}
    with pytest.raises(CalibrationError, match="calibration"):
        refit(snn, steps=3)
    with pytest.raises(ConversionError, match="steps"):
        refit(snn, images, steps=0)
    with pytest.raises(ConversionError, match="method"):
        refit(snn, images, method="magic")
