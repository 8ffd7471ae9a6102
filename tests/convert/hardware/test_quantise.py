"""Networks in whole numbers: how near they are, what they leave out, and what is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convert import InputError, SpikingModel, quantise, to_spiking
from convert.hardware.records import Op
from convert.hardware.result import QuantisedModel


def _converted(model: nn.Module, data: Any, **settings: Any) -> SpikingModel:
    given = {"steps": 6, "method": "binary", "progress": False} | settings
    return to_spiking(model.eval(), data, **given)


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / (exact - exact.mean(0)).norm())


@pytest.fixture(scope="module")
def snn(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    return _converted(small_model, noise, steps=[8, 4])


@pytest.fixture(scope="module")
def quantised(snn: SpikingModel, noise: Tensor) -> QuantisedModel:
    return quantise(snn, noise, progress=False)


def test_outputs_stay_near(
    quantised: QuantisedModel, snn: SpikingModel, small_model: nn.Module, noise: Tensor
) -> None:
    with torch.no_grad():
        exact = small_model(noise)
        assert _error(quantised(noise), exact) < max(1.5 * _error(snn(noise), exact), 0.05)
    assert not quantised.left and not quantised.multiplying
    # The image alone is multiplied; it is noise, and has no pixels.
    assert [layer.name for layer in quantised.analog] == ["first"]
    assert not quantised.summary.pixels


def test_calls_are_exact(quantised: QuantisedModel, noise: Tensor) -> None:
    whole = quantised(noise)
    assert torch.equal(torch.cat([quantised(noise[:1]), quantised(noise[1:48])]), whole)


def test_the_network_is_left_as_it_is(small_model: nn.Module, noise: Tensor) -> None:
    snn = _converted(small_model, noise)
    before = copy.deepcopy(snn.state_dict())
    quantise(snn, noise, progress=False)
    after = snn.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_another_k(snn: SpikingModel, quantised: QuantisedModel, noise: Tensor) -> None:
    with snn.with_steps(4):
        fewer = quantise(snn, noise, progress=False)
    assert (fewer.summary.steps, quantised.summary.steps) == (4, 8)
    assert {n.steps for n in fewer.neurons.values()} == {4}
    with torch.no_grad(), snn.with_steps(4):
        assert _error(fewer(noise), snn(noise)) < 0.2


def test_without_data(snn: SpikingModel, small_model: nn.Module, noise: Tensor) -> None:
    found = quantise(snn, progress=False)
    assert not found.summary.corrections.kept and "No data" in str(found)
    with torch.no_grad():
        assert _error(found(noise), small_model(noise)) < 0.1


def test_fewer_bits_cost_more(
    snn: SpikingModel, quantised: QuantisedModel, small_model: nn.Module, noise: Tensor
) -> None:
    coarse = quantise(snn, noise, weight_bits=4, state_bits=8, progress=False)
    weights = [layer.tensors["weights"] for layer in coarse.layers if layer.op is Op.WEIGHTS]
    assert max(int(w.abs().max()) for w in weights) <= 7
    assert all(n.most == 127 for n in coarse.neurons.values())
    with torch.no_grad():
        exact = small_model(noise)
        errors = [_error(network(noise), exact) for network in (quantised, coarse)]
    assert errors[0] < errors[1] < 0.5


class PreActivated(nn.Module):
    """Batch norms that can't be folded, joined sums, and both kinds of pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(12)])
        self.head = nn.Linear(12, 4)
        for norm in self.norms:
            norm.running_mean.normal_()  # type: ignore[operator, union-attr]
            norm.running_var.uniform_(0.5, 2)  # type: ignore[operator, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(F.relu(self.norms[0](x)))
        z = F.relu(self.norms[1](torch.cat([x, y], 1)))
        z = F.avg_pool2d(F.max_pool2d(z, 2), 3, 2, 1)
        return self.head(z.mean((2, 3)))


class Bottleneck(nn.Module):
    """Convolutions after each other, depthwise ones, numbers, and an upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.p, self.e = nn.Conv2d(8, 6, 1, bias=False), nn.Conv2d(6, 6, 1)
        self.t, self.head = nn.ConvTranspose2d(6, 6, 2, 2), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.p(F.hardswish(self.d(F.relu6(self.a(x)))))
        x = 1.5 - (x + self.e(x) * -0.5)
        t = F.relu(self.t(F.silu(x)))
        return self.head(torch.cat([t, F.interpolate(torch.tanh(x), scale_factor=2)], 1))


class Wide(nn.Module):
    """Sums that int32 would not hold with 16-bit weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(12, 3000), nn.Linear(3000, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.b(F.relu(self.a(x.flatten(1)[:, :12])))))


@pytest.mark.parametrize("make", [PreActivated, Bottleneck, Wide])
@pytest.mark.parametrize("gates", [0, 2])
def test_whole_networks_of_many_operations(make: Callable[[], nn.Module], gates: int) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(64, 3, 8, 8)
    snn = _converted(model, x, gates=gates)
    found = quantise(snn, x, progress=False)
    assert not found.left
    fine = quantise(snn, x, weight_bits=16, weights="integer", progress=False)
    if make is Wide:
        assert any("coarser weights" in layer.note for layer in fine.layers)
    with torch.no_grad():
        exact = model(x)
        before = _error(snn(x), exact)
        # Every accumulator and value is compared with its proven bound on the way.
        assert _error(found(x), exact) < 2.2 * before + 0.02
        assert _error(fine(x), exact) < 1.15 * before + 0.01


class Stream(nn.Module):
    """Many branches that are added to one stream, which only norms read."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(12))
        self.branches = nn.ModuleList(nn.Linear(6, 6) for _ in range(12))
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm, branch in zip(self.norms, self.branches, strict=True):
            x = x + branch(torch.relu(norm(x)))
        return self.head(x)


def test_units_of_a_long_stream_stay_as_fine() -> None:
    torch.manual_seed(0)
    model, x = Stream().eval(), torch.randn(96, 6)
    snn = _converted(model, x)
    found = quantise(snn, x, progress=False)
    sums = [layer for layer in found.layers if layer.op is Op.SUM]
    units = [layer.form.unit for layer in sums if layer.form is not None]
    assert len(units) == 12 and max(units) / min(units) < 2**12
    with torch.no_grad():
        exact = model(x)
        assert _error(found(x), exact) < 2.2 * _error(snn(x), exact) + 0.02


class Attention(nn.Module):
    """A masked encoder over whole numbers: products and norms stay floating point."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layer(self.tokens(ids), src_key_padding_mask=ids == 0).mean(1))


def test_products_and_norms_stay_and_are_named() -> None:
    torch.manual_seed(0)
    ids = torch.randint(1, 20, (64, 6))
    ids[::2, 4:] = 0
    model = Attention().eval()
    snn = _converted(model, ids)
    with pytest.raises(InputError, match=r"no spike and is multiplied.*calibration data"):
        quantise(snn, progress=False)
    found = quantise(snn, ids, progress=False)
    left = {str(layer.node.target).split(".")[1] for layer in found.left}
    assert {"embedding", "matmul", "layer_norm"} <= left
    assert "layer_norm" in str(found) and "floating point" in str(found)
    whole = {layer.op for layer in found.layers if layer.op is not Op.FLOAT}
    assert {Op.NEURON, Op.WEIGHTS} <= whole
    with torch.no_grad():
        exact = model(ids)
        assert _error(found(ids), exact) < 1.4 * _error(snn(ids), exact) + 0.03


def test_layers_of_a_recurrence_share_their_weights() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    torch.manual_seed(0)
    model, x = Last().eval(), torch.randn(64, 5, 4)
    found = quantise(_converted(model, x), x, progress=False)
    by_path: dict[str, list[Tensor]] = {}
    for layer in found.layers:
        if layer.op is Op.WEIGHTS:
            by_path.setdefault(str(layer.node.args[1]), []).append(layer.tensors["weights"])
    assert any(len(same) > 1 for same in by_path.values()) or len(by_path) > 5
    for same in by_path.values():
        assert all(torch.equal(w, same[0]) for w in same)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"weight_bits": 1}, "weight_bits must be a whole number from 2 to 16, found 1"),
        ({"weight_bits": 8.0}, "weight_bits must be a whole number"),
        ({"state_bits": 32}, "state_bits must be a whole number from 6 to 24, found 32"),
        ({"state_bits": True}, "state_bits must be"),
        ({"weights": "float"}, "weights must be 'power-of-two' or 'integer', found 'float'"),
    ],
)
def test_settings_are_refused(snn: SpikingModel, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        quantise(snn, **changed, progress=False)


def test_what_is_no_network_is_refused(
    snn: SpikingModel, small_model: nn.Module, noise: Tensor
) -> None:
    with pytest.raises(InputError, match="takes a converted network, found a Small"):
        quantise(small_model, noise)  # type: ignore[arg-type]
    with snn.readout(2), pytest.raises(InputError, match="leave the block readout"):
        quantise(snn, noise)
    half = copy.deepcopy(snn).half()
    with pytest.raises(InputError, match=r"half precision; quantise it before \.half"):
        quantise(half, noise)
    bare = copy.deepcopy(snn)
    bare.histograms = {}
    with pytest.raises(Exception, match="doesn't carry what calibration saw"):
        quantise(bare, noise)


def test_nan_is_refused(quantised: QuantisedModel, noise: Tensor) -> None:
    broken = noise.clone()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN comes to first"):
        quantised(broken)
