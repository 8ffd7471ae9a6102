"""Refitting a network without the model that it came from."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convert import (
    CalibrationError,
    ConversionError,
    ConversionSettings,
    FitError,
    SpikingModel,
    audit,
    load,
    refit,
    to_spiking,
)
from convert.fitting import tbpi

_OLDER = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="module", autouse=True)
def _short_training() -> Iterator[None]:
    """A tenth of TBPI's: what is asked is whether two fits are the same one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tbpi, "_EPOCHS_FIRST", 1000)
        patch.setattr(tbpi, "_EPOCHS_THIRD", 2000)
        yield


@pytest.fixture(scope="module")
def converted(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """With no setting as it is by default; not to be changed."""
    return to_spiking(
        small_model,
        noise,
        steps=[3, 2],
        method="random",
        seed=4,
        per_site_steps={"si*": 5},
        effort="high",
        sequential=False,
        progress=False,
    )


@pytest.fixture(scope="module")
def saved(converted: SpikingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "net.fsnn"
    converted.save(path)
    return path


def _alike(found: SpikingModel, expected: SpikingModel, x: Tensor) -> None:
    """Equal bit for bit, in every K."""
    for name, neuron in expected.sites.items():
        assert torch.equal(found.sites[name].thresholds, neuron.thresholds)
        assert torch.equal(found.sites[name].missing_mean, neuron.missing_mean)
    with torch.no_grad():
        assert torch.equal(expected(x), found(x))
        assert list(found.refitted) == list(expected.refitted)
        for k in map(int, expected.refitted):
            with expected.with_steps(k), found.with_steps(k):
                assert torch.equal(expected(x), found(x))


def _measured(snn: SpikingModel) -> dict:
    """The report without what can't be measured where there is no data."""
    return {k: v for k, v in snn.report.to_dict().items() if k != "output_errors"}


def test_what_is_not_given_is_as_it_was(
    converted: SpikingModel, saved: Path, noise: Tensor
) -> None:
    back = load(saved)
    assert back.report.settings == converted.report.settings
    before = {name: neuron.thresholds.clone() for name, neuron in back.sites.items()}
    found = refit(back, progress=False)
    _alike(found, converted, noise)
    assert _measured(found) == _measured(converted)
    assert found.report.settings == converted.report.settings
    assert found.fitted_as == 3
    # The network that was refitted is as it was, also by what happens to the new one.
    found.network.first.weight.zero_()
    assert all(torch.equal(neuron.thresholds, before[n]) for n, neuron in back.sites.items())
    assert back.network.first.weight.abs().sum() > 0


def test_as_if_converted_anew(
    saved: Path, small: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    back = load(saved)
    # The histograms weigh by importance, which is estimated with a seed: the same one as before.
    settings = {"steps": [4, 2], "method": "random-best", "seed": 4, "effort": "normal"}
    settings |= {"sequential": True, "progress": False}
    for calibration in (None, images):
        found = refit(back, calibration, per_site_steps={}, **settings)
        # Mean errors can't be measured without data.
        able = {"sequential": calibration is not None}
        expected = to_spiking(small, images, **settings | able)
        _alike(found, expected, images)
        assert bool(found.report.output_errors) == (calibration is not None)
        old, new = _measured(expected), _measured(found)
        assert any("mean error" in note for note in new.pop("notes")) == (calibration is None)
        old.pop("notes")
        assert new["settings"] == old["settings"] | {"sequential": True}
        assert new | {"settings": None} == old | {"settings": None}
    found.save(tmp_path / "b.fsnn")
    again = load(tmp_path / "b.fsnn")
    assert again.steps == 4 and again.report.settings == found.report.settings


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"steps": 4}, {"silu": 5, "act": 4}),
        ({"per_site_steps": {}}, {"silu": 3, "act": 3}),
        ({"steps": "auto", "budget": 7, "per_site_steps": {"act": 2}}, {"silu": 5, "act": 2}),
    ],
)
def test_steps(converted: SpikingModel, given: dict, steps: dict[str, int]) -> None:
    found = refit(converted, method="binary", progress=False, **given)
    assert {row.name: row.steps for row in found.report.sites} == steps
    assert found.report.settings == converted.report.settings.changed({"method": "binary"} | given)


def test_products_and_encoding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu").eval()
    x = torch.randn(12, 5, 8)
    settings = {"method": "binary", "sequential": False, "progress": False}
    to_spiking(model, x, steps=4, encode=True, **settings).save(tmp_path / "a.fsnn")
    back = load(tmp_path / "a.fsnn")
    expected = to_spiking(model, x, steps=6, encode=True, **settings)
    found = refit(back, steps=6, progress=False)
    assert _measured(found) == _measured(expected)
    with torch.no_grad():
        assert torch.equal(found(x), expected(x))
    # Calibrated anew, a saved graph's layout lets some processors round sums otherwise.
    found = refit(back, x, steps=6, progress=False)
    for row, other in zip(found.report.sites, expected.report.sites, strict=True):
        assert (row.name, row.function, row.steps) == (other.name, other.function, other.steps)
        assert (row.low, row.high) == pytest.approx((other.low, other.high), rel=1e-5)
    with torch.no_grad():
        difference = (found(x) - expected(x)).square().mean()
        assert difference < 0.01 * (expected(x) - model(x)).square().mean()
    assert audit(back, x).to_dict() == audit(refit(back, progress=False), x).to_dict()


def test_other_data_gives_another_range(converted: SpikingModel, noise: Tensor) -> None:
    wide = refit(converted, [5 * noise], method="binary", progress=False)
    narrow = refit(converted, method="binary", progress=False)
    assert wide.histograms["silu"].high > 3 * converted.histograms["silu"].high
    assert wide.sites["silu"].thresholds[0] > 2 * narrow.sites["silu"].thresholds[0]


@pytest.mark.parametrize(
    ("file", "steps", "beside"),
    [
        ("v1_convolutions", {"relu": 5, "relu_1": 5}, [3]),
        ("v2_automatic", {"relu": 3, "relu_1": 4}, []),
    ],
)
def test_a_file_without_settings_tells_what_it_can(
    file: str, steps: dict[str, int], beside: list[int]
) -> None:
    back = load(_OLDER / f"{file}.fsnn")
    assert back.report.settings is None and back.report.to_dict()["settings"] is None
    found = refit(back, method="binary", progress=False)
    assert {row.name: row.steps for row in found.report.sites} == steps
    assert [int(k) for k in found.refitted] == beside
    settings = found.report.settings
    assert (settings.method, settings.seed) == ("binary", back.report.seed)
    assert any("keeps no settings" in note for note in found.report.notes)
    # Steps that are given are those of every site.
    found = refit(back, steps=2, method="binary", progress=False)
    assert {row.steps for row in found.report.sites} == {2}
    assert found.report.settings == ConversionSettings(steps=2, method="binary")
    # From now on the settings are known.
    again = refit(found, seed=3, progress=False)
    assert again.report.settings == ConversionSettings(steps=2, method="binary", seed=3)
    assert sum("keeps no settings" in note for note in again.report.notes) == 1


def test_one_of_several_that_a_site_had_fixed(small: nn.Module, images: Tensor) -> None:
    """Of a network that keeps no settings."""
    snn = to_spiking(
        small, images, steps=[3, 5], per_site_steps={"act": 5}, method="binary", progress=False
    )
    assert snn.fitted_as == 3
    snn.report.settings = None
    assert snn.report.steps == 5
    found = refit(snn, progress=False)
    assert found.fitted_as == 3 and list(found.refitted) == ["5"]
    assert {row.name: row.steps for row in found.report.sites} == {"silu": 3, "act": 5}
    assert found.report.method == "binary"


def test_refusals(converted: SpikingModel, noise: Tensor) -> None:
    snn = copy.deepcopy(converted)
    snn.histograms = {}
    with pytest.raises(CalibrationError, match="calibration"):
        refit(snn, steps=3)
    with pytest.raises(ConversionError, match="steps"):
        refit(snn, noise, steps=0)
    with pytest.raises(FitError, match="method"):
        refit(snn, noise, method="magic")
    with pytest.raises(ConversionError, match="sequential"):
        refit(snn, noise, sequential="no")
    with pytest.raises(ConversionError, match="no site matches 'head'"):
        refit(snn, noise, per_site_steps={"head": 3})
