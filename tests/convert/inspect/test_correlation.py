"""Values of every site beside the original's equal those that hooks see."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convert import InputError, SiteError, SpikingModel, load, refit, to_spiking
from convert.assembly.bias_correction import stretched
from convert.inspect import correlate
from convert.inspect.correlation import Correlation


def _convert(model: nn.Module, x: Any, **settings: Any) -> SpikingModel:
    return to_spiking(model, x, **{"steps": 4, "method": "binary", "progress": False} | settings)


def _found(snn: SpikingModel, x: Any, **settings: Any) -> Correlation:
    return correlate(snn, None, x, **{"progress": False} | settings)


@pytest.fixture(scope="module")
def converted(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """K = 4 and 2; not to be changed."""
    return _convert(small_model, noise, steps=[4, 2])


@pytest.fixture(scope="module")
def found(converted: SpikingModel, noise: Tensor) -> Correlation:
    """Of 23 of the calibration images; not to be changed."""
    return _found(converted, noise[:23])


class Watched(nn.Module):
    """Two layers of a function each; keeps what goes into them and comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 9), nn.Linear(9, 7), nn.Linear(7, 3)
        self.one, self.two = nn.SiLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.second(self.one(self.first(x)))))


def _seen(modules: dict[str, nn.Module], run: Callable[[], object]) -> dict[str, tuple[Any, Any]]:
    """Inputs and outputs of modules in a run."""
    seen: dict[str, tuple[Any, Any]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            seen[name] = given[0].detach().clone(), result.detach().clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("gates", [0, 2])
def test_values_are_those_that_hooks_see(gates: int) -> None:
    torch.manual_seed(0)
    model = Watched().eval()
    x, calibration = torch.randn(35, 6), torch.randn(60, 6)
    snn = _convert(model, calibration, gates=gates, sequential=False)
    exact = _seen({"one": model.one, "two": model.two}, lambda: model(x))
    spiking = _seen(dict(snn.sites), lambda: snn(x))
    found = _found(snn, x)
    assert [row.name for row in found.sites] == ["one", "two"] and found.images == 35
    for row in found.sites:
        (given, y), (given_spiking, y_spiking) = exact[row.name], spiking[row.name]
        own = snn.sites[row.name](given)
        for error, correlation, values in (
            (row.error, row.correlation, y_spiking),
            (row.error_alone, row.correlation_alone, own),
        ):
            a, b = y.double().numpy().ravel(), values.double().numpy().ravel()
            assert correlation == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)
            assert error == pytest.approx(float(np.sqrt(np.mean((a - b) ** 2)) / a.std()), rel=1e-4)
        report = next(r for r in snn.report.sites if r.name == row.name)
        outside = ((given < report.low) | (given > report.high)).double().mean()
        assert row.outside == pytest.approx(float(outside))
        outside = ((given_spiking < report.low) | (given_spiking > report.high)).double().mean()
        assert row.outside_spiking == pytest.approx(float(outside), abs=1e-3)
        assert row.lowest == pytest.approx(float(given.min()))
        assert row.expected == pytest.approx(math.sqrt(report.relative_mse), rel=0.005)
        assert row.gates == gates and row.steps == 4
        # The sample is of both networks' values at the same places.
        pairs = {
            (round(p, 4), round(q, 4))
            for p, q in zip(
                y.double().numpy().ravel(), y_spiking.double().numpy().ravel(), strict=True
            )
        }
        drawn = zip(row.original, row.spiking, strict=True)
        assert len(pairs & {(round(p, 4), round(q, 4)) for p, q in drawn}) > 0.9 * len(pairs)
    with torch.no_grad():
        a, b = model(x), snn(x)
    assert found.output_error == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-3)


def test_alone_is_what_the_report_expects(converted: SpikingModel, noise: Tensor) -> None:
    for row in _found(converted, noise).sites:
        report = next(r for r in converted.report.sites if r.name == row.name)
        assert row.expected == pytest.approx(math.sqrt(report.relative_mse), rel=0.01)
        assert row.error_alone == pytest.approx(row.expected, rel=0.02)
        assert row.outside == 0 and row.rare == 0


@pytest.mark.parametrize("gates", [0, 2])
def test_a_stretch_is_no_error_of_the_site(small: nn.Module, images: Tensor, gates: int) -> None:
    snn = _convert(small, images, steps=6, gates=gates, sequential=False)
    plain = _found(snn, images).sites[1]
    stretched(snn.sites["act"], 1.4)
    assert float((snn.sites["act"](images) - images.relu()).std() / images.relu().std()) > 0.2
    row = _found(snn, images).sites[1]
    assert row.error > 3 * row.error_alone
    assert row.error_alone == pytest.approx(plain.error_alone, rel=0.1)


def test_another_k(converted: SpikingModel, noise: Tensor) -> None:
    with converted.with_steps(2):
        found = _found(converted, noise)
    for row in found.sites:
        assert row.steps == 2
        # The report has no row of these neurons, the histogram tells it.
        assert row.error_alone == pytest.approx(row.expected, rel=0.05)
    assert found.sites[0].error > 1.5 * _found(converted, noise).sites[0].error


def test_only_sites_that_spike(converted: SpikingModel, noise: Tensor) -> None:
    (first, second) = converted.sites
    with converted.spiking_only([second]):
        (row,) = _found(converted, noise).sites
    assert row.name == second and row.error == pytest.approx(row.error_alone, rel=0.1)
    with (
        converted.spiking_only(()),
        pytest.raises(SiteError, match="no site of the network spikes"),
    ):
        _found(converted, noise)
    assert [r.name for r in _found(converted, noise, sites=first).sites] == [first]
    assert [r.name for r in _found(converted, noise, sites=["a*"]).sites] == [second]


def test_pieces_change_nothing(
    converted: SpikingModel, noise: Tensor, found: Correlation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convert.inspect.correlation._PIECE", 23)
    for row, other in zip(found.sites, _found(converted, noise[:23]).sites, strict=True):
        assert row.error == pytest.approx(other.error, rel=1e-5)
        assert row.correlation == pytest.approx(other.correlation, rel=1e-5)
        assert row.rare == other.rare and row.outside == other.outside


def test_seeds(converted: SpikingModel, noise: Tensor, found: Correlation) -> None:
    same, other = _found(converted, noise[:23]), _found(converted, noise[:23], seed=1)
    for row, again, drawn in zip(found.sites, same.sites, other.sites, strict=True):
        assert np.array_equal(row.original, again.original)
        assert not np.array_equal(row.original, drawn.original)
        assert row.error == drawn.error


def test_masks_and_values_that_are_no_numbers() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.ones(5, 5).triu(1).bool()
            scores = (x[:, :, None] * x[:, None]).masked_fill(hidden, -math.inf)
            return scores.softmax(-1) @ x[:, :, None]

    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    snn = _convert(Masked().eval(), x, steps=8)
    found = _found(snn, x)
    assert found.sites and all(math.isfinite(row.error) for row in found.sites)
    assert all(row.outside == 0 for row in found.sites)
    json.dumps(found.to_dict(), allow_nan=False)


def test_lost_values_are_an_infinite_error(small: nn.Module, images: Tensor) -> None:
    snn = _convert(small, images)
    snn.sites["silu"].offset.fill_(math.nan)
    found = _found(snn, images)
    assert [row.error for row in found.sites] == [math.inf] * 2 and found.output_error == math.inf
    assert found.sites[0].correlation is None and found.findings[0].sites == ("silu",)
    json.dumps(found.to_dict(), allow_nan=False)


def test_nan_in_the_original(small: nn.Module, images: Tensor) -> None:
    snn = _convert(small, images)
    broken = images.clone()
    broken[3, 0, 2, 2] = math.nan
    found = _found(snn, broken)
    assert "values of the original at silu are NaN or infinite" in found.notes[0]
    assert found.sites[0].error < 0.3
    with torch.no_grad():
        snn.network.get_parameter("second.weight").fill_(math.nan)
    with pytest.raises(InputError, match="no finite value at act, so there is nothing to compare"):
        _found(snn, images)


def test_a_function_that_never_varies(images: Tensor) -> None:
    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.abs() * -1 - 1).mean((1, 2, 3)) + torch.sigmoid(x).mean((1, 2, 3))

    snn = _convert(Dead().eval(), images, steps=8)
    found = _found(snn, images)
    dead = [row for row in found.sites if row.correlation is None]
    assert [row.error for row in dead] == [0.0] * len(dead) and dead
    assert "Nothing is wrong" in found.diagnosis


def test_another_model(converted: SpikingModel, small: nn.Module, images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert correlate(converted, small, images, progress=False).notes == ()
    with torch.no_grad():
        small.head.weight.mul_(2)
    with pytest.warns(UserWarning, match="another model"):
        found = correlate(converted, small, images, progress=False)
    assert len(found.notes) == 1 and "note: the model's outputs differ" in str(found)


def test_modes_stay_as_they_were(small: nn.Module, images: Tensor) -> None:
    snn = _convert(small, images)
    snn.train()
    small.train()
    correlate(snn, small, images, progress=False)
    assert snn.training and small.training and all(n.training for n in snn.sites.values())
    before = snn.state_dict()
    assert all(torch.equal(a, before[k]) for k, a in snn.state_dict().items())


def test_files_and_old_files(converted: SpikingModel, noise: Tensor, tmp_path: Path) -> None:
    converted.save(tmp_path / "net.fsnn")
    loaded = load(tmp_path / "net.fsnn")
    expected = _found(converted, noise)
    assert _found(loaded, noise).to_dict() == expected.to_dict()
    loaded.histograms.clear()
    found = _found(loaded, noise)
    assert [row.rare for row in found.sites] == [None, None]
    assert [row.error for row in found.sites] == [row.error for row in expected.sites]


def test_printed_and_as_a_dict(found: Correlation) -> None:
    text = str(found)
    assert all(row.name in text for row in found.sites) and found.diagnosis in text
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row["name"] for row in written["sites"]] == [row.name for row in found.sites]
    assert written["sites"][0]["error"] == found.sites[0].error
    assert written["images"] == 23 and written["output_error"] == found.output_error


def test_bad_input(converted: SpikingModel, small: nn.Module, images: Tensor) -> None:
    with pytest.raises(InputError, match="takes a converted network, found a Small"):
        correlate(small, None, images)  # type: ignore[arg-type]
    with converted.readout(1), pytest.raises(InputError, match=r"leave the block snn.readout"):
        _found(converted, images)
    with pytest.raises(SiteError, match=r"no site here is called 'x\.\*'; there are e\.g\. "):
        _found(converted, images, sites=["x.*"])
    with pytest.raises(SiteError, match="no site was named"):
        _found(converted, images, sites=[])
    with pytest.raises(InputError):
        _found(converted, images[:, :, :4, 0])
    with pytest.raises(InputError):
        _found(converted, images[:0])


def test_half_precision_and_double(small: nn.Module, images: Tensor) -> None:
    snn = _convert(small, images)
    for cast in (torch.float64, torch.bfloat16):
        found = _found(refit(snn, images, progress=False).to(cast), images[:8].to(cast))
        assert all(row.error < 0.5 and row.outside < 0.01 for row in found.sites)
