"""A fault made on purpose is found, and its remedy mends it; without one nobody is accused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convert import SpikingModel, refit, to_spiking
from convert.inspect import correlate
from convert.inspect.correlation import Correlation
from convert.inspect.diagnosis import Cause

Make = Callable[[int], tuple[nn.Module, Callable[[int, int], Tensor]]]


class Convolutions(nn.Module):
    """Two convolutions with a skip, and a linear layer."""

    def __init__(self, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.third, self.head = nn.Linear(6, 12), nn.Linear(12, 4)
        self.a, self.b, self.c = act(), act(), act()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.first(x))
        x = self.b(self.second(x) + x)
        return self.head(self.c(self.third(x.mean((2, 3)))))


class Perceptron(nn.Module):
    """Three layers."""

    def __init__(self, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(layer for n in (16, 32, 32) for layer in (nn.Linear(n, 32), act()))
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def _noise(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def _convert(model: nn.Module, x: Tensor, **settings: Any) -> SpikingModel:
    return to_spiking(model, x, **{"steps": 8, "method": "binary", "progress": False} | settings)


def _correlate(snn: SpikingModel, x: Tensor) -> Correlation:
    return correlate(snn, None, x, progress=False)


def _mended(snn: SpikingModel, change: str, calibration: Tensor) -> SpikingModel:
    """What a remedy gives, as it stands."""

    def quiet(*args: Any, **settings: Any) -> SpikingModel:
        return refit(*args, progress=False, **settings)

    names = {"refit": quiet, "snn": snn, "calibration": calibration}
    mended = eval(change, names)
    assert isinstance(mended, SpikingModel)
    return mended


_NETWORKS = [
    pytest.param(Convolutions, (1, 8, 8), nn.ReLU, 0, id="convolutions-relu"),
    pytest.param(Convolutions, (1, 8, 8), nn.Tanh, 1, id="convolutions-tanh"),
    pytest.param(Perceptron, (16,), nn.SiLU, 2, id="perceptron-silu"),
]


@pytest.mark.parametrize(("kind", "shape", "act", "seed"), _NETWORKS)
def test_each_fault(kind: Any, shape: tuple[int, ...], act: Any, seed: int) -> None:
    torch.manual_seed(seed)
    model = kind(act).eval()
    calibration, x = _noise(shape, 100, seed), _noise(shape, 40, 100 + seed)

    # Nothing is wrong.
    fine = _correlate(_convert(model, calibration), x)
    assert fine.findings == () and {row.cause for row in fine.sites} == {Cause.NONE}
    assert "Nothing is wrong" in fine.diagnosis and "refit" not in fine.diagnosis

    # Saturation: calibrated on images of a tenth of the contrast.
    dim = _convert(model, 0.1 * calibration)
    found = _correlate(dim, x)
    assert found.findings[0].cause is Cause.SATURATION
    assert found.sites[0].cause is Cause.SATURATION and found.sites[0].outside > 0.2
    assert {finding.cause for finding in found.findings} <= {Cause.SATURATION, Cause.BEFORE}
    assert "check that both are scaled in the same way" in found.diagnosis
    mended = _mended(dim, found.findings[0].change, torch.cat([0.1 * calibration, x]))
    assert _correlate(mended, x).sites[0].error_alone < 0.5 * found.sites[0].error_alone

    # Resolution: one site with K = 1.
    for place in (0, 1):
        guilty = found.sites[place].name
        coarse = _convert(model, calibration, per_site_steps={guilty: 1})
        found = _correlate(coarse, x)
        first = found.findings[0]
        assert first.cause is Cause.RESOLUTION and first.sites == (guilty,)
        assert f"'{guilty}': " in first.change
        later = [row.cause for row in found.sites if row.name != guilty]
        assert set(later) <= {Cause.NONE, Cause.BEFORE}
        assert all(guilty in finding.text for finding in found.findings)
        mended = _mended(coarse, first.change, calibration)
        assert mended.sites[guilty].steps >= 3
        assert _correlate(mended, x).sites[place].cause is Cause.NONE


class One(nn.Module):
    """One function and a layer behind it."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act, self.head = act, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(x))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("act", [nn.ReLU(), nn.SiLU()], ids=["relu", "silu"])
def test_inputs_that_calibration_held_few_of(act: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    model = One(act).eval()
    modes = [0.3 * _noise((6,), 300, seed + n) + at for n, at in enumerate((-1.0, 4.0, 1.5))]
    missing = _convert(model, torch.cat(modes[:2]), steps=3, method="tbpi-exact")
    same = _correlate(missing, torch.cat([mode[:40] for mode in modes[:2]]))
    assert same.findings == ()
    x = torch.cat([mode[:40] for mode in modes])
    found = _correlate(missing, x)
    (finding,) = found.findings
    assert finding.cause is Cause.RARE and finding.sites == ("act",)
    assert found.sites[0].rare == pytest.approx(1 / 3, abs=0.03)
    assert found.sites[0].outside < 0.01
    mended = _mended(missing, finding.change, torch.cat(modes))
    after = _correlate(mended, x)
    assert after.findings == () and after.sites[0].error_alone < 0.5 * found.sites[0].error_alone


def test_a_neuron_that_was_stretched_for_what_reaches_it_is_not_accused() -> None:
    torch.manual_seed(0)
    model, x = Convolutions(nn.SiLU).eval(), _noise((1, 8, 8), 100, 0)
    snn = _convert(model, x, per_site_steps={"a": 1}, gates=2, per_site_gates={"a": 0})
    found = _correlate(snn, x)
    assert found.findings[0].sites == ("a",) and found.sites[1].cause is Cause.BEFORE
    assert found.sites[1].error_alone < 0.1


def test_small_errors_that_add_up() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(14) for layer in (nn.Linear(24, 24), nn.SiLU())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=2 / 24**0.5)
    model = nn.Sequential(*layers, nn.Linear(24, 4)).eval()
    x = _noise((24,), 200, 0)
    found = _correlate(_convert(model, x, steps=4), x[:50])
    assert found.findings and not any(row.poor_alone for row in found.sites)
    assert all(finding.cause is Cause.BEFORE for finding in found.findings)
    assert "add up" in found.diagnosis and "though no site by itself is poor" in found.diagnosis
    worst = max(found.sites, key=lambda row: row.error_alone)
    assert worst.name in found.findings[0].text and "method=" in found.findings[0].change


def test_steps_that_were_asked_for_stay_in_the_remedy() -> None:
    torch.manual_seed(0)
    model, x = Perceptron(nn.ReLU).eval(), _noise((16,), 100, 0)
    snn = _convert(model, x, per_site_steps={"layers.1": 1, "*.5": 6})
    (change,) = [f.change for f in _correlate(snn, x).findings if f.change]
    mended = _mended(snn, change, x)
    assert mended.sites["layers.5"].steps == 6 and mended.sites["layers.1"].steps > 2


def test_a_table_that_is_not_fitted_is_told_to_be_fitted() -> None:
    class Reciprocal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1 / (x.square() + 0.05)

    x = _noise((6,), 200, 0)
    snn = _convert(Reciprocal().eval(), x, steps=6)
    found = _correlate(snn, x)
    guilty = {name for finding in found.findings for name in finding.sites}
    assert "rdiv" in guilty
    assert "Fit the neurons" in found.diagnosis and "method='tbpi-exact'" in found.diagnosis


def test_poor_outputs_of_good_sites() -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            with torch.no_grad():
                self.b.load_state_dict(self.a.state_dict())
                self.b.bias.add_(0.01)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.a(x)) - torch.relu(self.b(x))

    torch.manual_seed(0)
    x = _noise((6,), 200, 0)
    found = _correlate(_convert(Difference().eval(), x, steps=6, sequential=False), x)
    assert all(row.cause is Cause.NONE for row in found.sites) and found.output_error > 0.25
    assert "the last layers make much of small errors" in found.diagnosis
    assert "Nothing is wrong" not in found.diagnosis
