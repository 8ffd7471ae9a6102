"""Mean errors of layers, measured in graph order and taken out of the biases."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.waits import Deep, Waits, neurons_as_on_a_gpu
from torch import Tensor, nn

from convert import SpikingModel, load, refit, to_spiking
from convert.assembly import bias_correction, side_by_side
from convert.assembly.bias_correction import _factor, _means, _shrunk, stretched
from convert.assembly.biased_layers import find_layers
from convert.capture.capture import capture
from convert.neuron.few_spikes import FewSpikesNeuron
from convert.sites.find import find_sites


class Residual(nn.Module):
    """Two blocks with a shortcut, shared weights, layers without a bias, and a norm on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        self.norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.two(F.relu(self.one(x))))
        x = F.relu(self.shared(F.relu(self.shared(x))))
        return self.head(F.silu(self.norm(x + x.roll(1, 2))).mean((2, 3)))


class Tokens(nn.Module):
    """Attention by hand, tokens first, windows folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(4, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.embed(x)).transpose(0, 1)
        q, k, v = self.qkv(self.norm(x)).transpose(0, 1).reshape(-1, 3, 24).chunk(3, -1)
        y = torch.softmax(q @ k.transpose(1, 2), -1) @ v
        x = x + self.out(y.reshape(-1, 6, 8).transpose(0, 1))
        return self.head(F.silu(x).mean(0))


@pytest.fixture(scope="module")
def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.randn(160, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def convert(model: nn.Module, x: Tensor, **settings) -> SpikingModel:
    return to_spiking(
        model, x, **{"steps": [2, 4], "method": "binary", "progress": False} | settings
    )


@pytest.fixture(scope="module")
def plain(residual: nn.Module, pictures: Tensor) -> SpikingModel:
    """Without corrections; not to be changed."""
    return convert(residual, pictures, sequential=False)


@pytest.fixture(scope="module")
def corrected(residual: nn.Module, pictures: Tensor) -> SpikingModel:
    """Not to be changed."""
    return convert(residual, pictures)


def test_mean_outputs_are_those_of_the_original(
    residual: nn.Module, pictures: Tensor, plain: SpikingModel, corrected: SpikingModel
) -> None:
    with torch.no_grad():
        exact = residual(pictures)
        errors = [network(pictures) - exact for network in (plain, corrected)]
    off = [error.mean(0).abs().max() for error in errors]
    assert off[1] < 0.1 * off[0]
    assert errors[1].square().mean() < errors[0].square().mean()
    (first, second) = corrected.report.corrections
    assert (first.steps, second.steps, first.layers) == (2, 4, 6)
    assert first.kept and first.after < first.before and first.images == 160
    assert "mean errors of 6 layers" in str(corrected.report)
    assert corrected.report.to_dict()["corrections"][0]["after"] == first.after
    assert plain.report.corrections == []


def test_the_error_that_is_reported_is_the_network_s(
    residual: nn.Module, pictures: Tensor, plain: SpikingModel, corrected: SpikingModel
) -> None:
    with torch.no_grad():
        exact = residual(pictures)
        row = corrected.report.corrections[0]
        for network, reported in ((plain, row.before), (corrected, row.after)):
            error = (network(pictures) - exact).norm() / exact.norm()
            assert float(error) == pytest.approx(reported, rel=1e-4)


def test_the_original_is_as_it_was(
    residual: nn.Module, pictures: Tensor, plain: SpikingModel
) -> None:
    before = copy.deepcopy(residual.state_dict())
    snn = convert(residual, pictures)
    assert all(torch.equal(t, before[n]) for n, t in residual.state_dict().items())
    with torch.no_grad():
        assert torch.equal(snn.original()(pictures), plain.original()(pictures))
        with snn.spiking_only([]):
            assert torch.equal(snn(pictures), plain.original()(pictures))
        outputs = snn(pictures)
        with snn.with_steps(4):
            four = snn(pictures)
            assert torch.equal(snn.original()(pictures), plain.original()(pictures))
        assert torch.equal(snn(pictures), outputs) and not torch.equal(four, outputs)
    alone = convert(residual, pictures, steps=[4])
    with torch.no_grad():
        torch.testing.assert_close(alone(pictures), four, rtol=0.2, atol=0.2)


def test_every_k_is_corrected_whichever_is_the_larger(
    residual: nn.Module, pictures: Tensor, corrected: SpikingModel
) -> None:
    # One site fixed at 4: K = 2 is not the largest there, and is what the biases are shifted for.
    snn = convert(residual, pictures, per_site_steps={"silu": 4})
    assert snn.fitted_as == 2 and snn.longest == 4
    assert [row.steps for row in snn.report.corrections] == [2, 4]
    assert set(snn.corrections.held.values()) == {"2"}
    # All layers but the last come before that site and are corrected as without it.
    for path in list(snn.corrections.upstream)[:-1]:
        for k in ("2", "4"):
            shift = corrected.corrections.shifts[k][path]
            torch.testing.assert_close(snn.corrections.shifts[k][path], shift)


def test_a_layer_behind_exact_sites_is_as_trained(corrected: SpikingModel) -> None:
    snn = copy.deepcopy(corrected)
    trained = {p: snn.corrections.original(snn.network, p) for p in snn.corrections.upstream}
    state = dict(snn.network.state_dict())
    assert any(not torch.equal(state[path], value) for path, value in trained.items())
    names = list(snn.sites)
    with snn.spiking_only(names[:2]):
        now = snn.as_planned(snn.plan).state_dict()
    for path, needed in snn.corrections.upstream.items():
        expected = state[path] if needed <= set(names[:2]) else trained[path]
        assert torch.equal(now[path], expected)
    now = snn.network.state_dict()
    assert all(torch.equal(now[path], state[path]) for path in trained)


def test_training_of_a_bias_stays(corrected: SpikingModel) -> None:
    snn = copy.deepcopy(corrected)
    path = next(iter(snn.corrections.upstream))
    bias = snn.network.get_parameter(path)
    before = snn.corrections.original(snn.network, path)
    with torch.no_grad():
        bias.add_(1.0)
    with snn.with_steps(4):
        four = snn.as_planned(snn.plan).get_parameter(path)
    shift = snn.corrections.shifts["4"][path]
    torch.testing.assert_close(four.detach(), before + 1 + shift)
    torch.testing.assert_close(snn.corrections.original(snn.network, path), before + 1)


def test_saved_and_refitted(
    pictures: Tensor, plain: SpikingModel, corrected: SpikingModel, tmp_path: Path
) -> None:
    corrected.save(tmp_path / "net.fsnn")
    back = load(tmp_path / "net.fsnn")
    assert back.report.corrections == corrected.report.corrections
    with torch.no_grad():
        for one, other in ((corrected, back), (corrected.original(), back.original())):
            assert torch.equal(one(pictures), other(pictures))
        with corrected.with_steps(4), back.with_steps(4):
            assert torch.equal(corrected(pictures), back(pictures))
    # Layers may sum in another order than before the conversion.
    again = refit(back, pictures, progress=False)
    for new, old in zip(again.report.corrections, corrected.report.corrections, strict=True):
        assert dataclasses.asdict(new) == pytest.approx(dataclasses.asdict(old), rel=0.01)
    with torch.no_grad():
        torch.testing.assert_close(again(pictures), corrected(pictures), rtol=0.05, atol=0.05)
    without = refit(back, steps=2, progress=False)
    assert without.report.corrections == [] and not without.corrections.upstream
    with torch.no_grad():
        assert torch.equal(without(pictures), plain(pictures))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_first_and_windows(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = Tokens().eval().to(dtype), torch.randn(96, 6, 4).to(dtype)
    plain, found = (convert(model, x, steps=3, sequential=s) for s in (False, True))
    with torch.no_grad():
        exact = model(x).float()
        errors = [(n(x).float() - exact).square().mean() for n in (plain, found)]
        means = [(n(x).float() - exact).mean(0).abs().max() for n in (plain, found)]
    assert errors[1] <= errors[0] and means[1] < 0.5 * means[0] + 1e-2
    assert found.report.corrections[0].layers >= 3


def test_layers_and_what_they_move(residual: nn.Module, pictures: Tensor) -> None:
    captured = capture(residual, pictures)
    sites = find_sites(captured.graph_module)
    layers = find_layers(captured.graph_module, {s.module: s.name for s in sites})
    biases = [layer.bias for layer in layers]
    assert len(set(biases)) == len(biases) == 6
    # The layer without a bias has one now, and one of the two calls of the shared layer its own.
    assert sum(bias.startswith("bias_") for bias in biases) == 2
    assert [layer.into is not None for layer in layers] == [True, True, True, True, True, False]
    with torch.no_grad():
        (outputs,) = captured.graph_module(pictures)
    torch.testing.assert_close(outputs, residual(pictures), rtol=1e-4, atol=1e-5)


def _all_means(*given: Any) -> Tensor:
    """Those of all pieces."""
    return torch.cat(_means(*given))


def test_means_are_per_image() -> None:
    x = torch.randn(6, 5, 3, 7, dtype=torch.float64)
    expected = x.mean((2, 3))
    torch.testing.assert_close(_all_means([x[:4], x[4:]], 1, [4, 2], {0}), expected)
    last = [v.permute(0, 2, 3, 1) for v in (x[:4], x[4:])]
    torch.testing.assert_close(_all_means(last, 3, [4, 2], {0}), expected)
    windows = [v.flatten(0, 1) for v in last]
    torch.testing.assert_close(_all_means(windows, 2, [4, 2], {0}), expected)
    tokens = [v.flatten(1, 2).transpose(0, 1) for v in last]
    torch.testing.assert_close(_all_means(tokens, 2, [4, 2], {1}), expected)
    # As many steps as images: which is which is known.
    square = [x[:4, :, :1, :4], x[4:, :, :1, :2]]
    turned = [v.permute(3, 2, 0, 1) for v in square]
    found = _all_means(turned, 3, [4, 2], {2})
    torch.testing.assert_close(found, torch.cat([v.mean((2, 3)) for v in square]))
    one = [x[0, :, :, 0], x[1, :, :, 0]]
    assert _all_means(one, 0, [9, 9], {1}).shape == (2, 5)
    torch.testing.assert_close(_all_means([x[:, :, 0, 0]], 1, [6], {0}), x[:, :, 0, 0])


def test_chance_is_no_error() -> None:
    torch.manual_seed(0)
    noise, error = torch.randn(50, 400, dtype=torch.float64), torch.full((50, 1), 3.0)
    assert _shrunk(noise).abs().mean() < 0.6 * noise.mean(0).abs().mean()
    assert _shrunk(noise + error).mean() == pytest.approx(3.0, rel=0.02)
    bad = torch.tensor([[float("nan"), 1.0], [1.0, 1.0]], dtype=torch.float64)
    assert _shrunk(bad).tolist() == [0.0, 1.0]


def test_a_stretched_neuron_takes_x_as_a_multiple() -> None:
    neuron = FewSpikesNeuron([1.0, 0.5], [1.0, 0.5], [1.0, 0.5], 0.1)
    x = torch.linspace(-1, 3, 41)
    expected = neuron(4 * x)
    assert torch.equal(stretched(neuron, 4.0)(x), expected)


def test_one_image_changes_nothing(residual: nn.Module, pictures: Tensor) -> None:
    snn = convert(residual, pictures[:1], steps=2)
    assert snn.report.corrections == [] and not snn.corrections.upstream


def test_a_correction_is_judged_on_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece of four images is all that memory allows; the next four say whether it holds."""
    monkeypatch.setattr(side_by_side, "_FLOOR", 0)
    monkeypatch.setattr(side_by_side, "_SHARE", 1e-9)
    torch.manual_seed(19)
    layers = [nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers).eval()
    x = torch.randn(64, 6)
    snn = to_spiking(model, [x[:16], x[16:]], steps=3, method="binary", progress=False)
    (row,) = snn.report.corrections
    # On its own four images it helped, else these would be told.
    assert row.images == 4 and row.after > row.before and not row.kept
    assert not snn.corrections.shifts
    with torch.no_grad():
        found, expected = snn(x[4:8]), model(x[4:8])
    error = (found - expected).double().square().mean() / expected.double().square().mean()
    assert row.before == pytest.approx(float(error.sqrt()), rel=1e-5)
    assert snn.report.output_errors[0].error == row.before


def test_factors_stay_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(2.0, 1.0), (1.0, 2.0), (9.0, 1.0), (1.0, 9.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)]
    spreads = [tuple(torch.tensor(v, dtype=torch.float64) for v in pair) for pair in pairs]
    expected = [_factor(*spread) for spread in spreads]
    assert expected == [2**0.5, 0.5**0.5, 2.0, 0.5, 1.0, 1.0, 1.0]
    monkeypatch.setattr(bias_correction, "apart", lambda _: True)
    for spread, factor in zip(spreads, expected, strict=True):
        found = _factor(*spread)
        assert isinstance(found, Tensor) and found.dtype == torch.float64
        assert float(found) == pytest.approx(factor, rel=1e-15)


def test_corrections_wait_no_more_for_more_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, numbers, seen = bias_correction.measure, [], []

    def watched(*given: Any, **how: Any) -> bias_correction.Corrected:
        with Waits() as waits:
            found = measure(*given, **how)
        numbers.append(waits.number)
        seen[:] = waits.found
        return found

    x = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))
    for layers in (2, 5):
        expected = to_spiking(Deep(layers), x, steps=3, method="binary", progress=False)
        with monkeypatch.context() as patch:
            patch.setattr(bias_correction, "apart", lambda _: True)
            patch.setattr(bias_correction, "measure", watched)
            neurons_as_on_a_gpu(patch)
            found = to_spiking(Deep(layers), x, steps=3, method="binary", progress=False)
        assert found.report.corrections[0].layers == layers - 1
        assert torch.allclose(found(x), expected(x), atol=1e-5)
    assert 0 < numbers[0] == numbers[1], seen
