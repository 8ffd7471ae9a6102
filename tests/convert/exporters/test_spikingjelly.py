"""Networks as SpikingJelly modules: spikes of every site, nothing of this package inside."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from spikingjelly.activation_based import functional, layer, monitor, neuron, op_counter
from torch import Tensor, nn

from convert import ConversionError, SpikingModel, load, to_spiking
from convert.exporters import to_spikingjelly
from convert.inspect import simulate


def _snn(model: nn.Module, data: Any, **settings: Any) -> SpikingModel:
    settings = {"steps": 4, "method": "binary", "progress": False} | settings
    return to_spiking(model.eval(), data, **settings)


def _assert_same_spikes(snn: SpikingModel, *inputs: Tensor) -> nn.Module:
    """Every site's weighted spikes in float64, and the outputs; gives the module back."""
    snn = snn.double()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    plain = to_spikingjelly(snn)
    with torch.no_grad(), monitor.OutputMonitor(plain, neuron.FewSpikeNode) as seen:
        outputs = plain(*inputs)
        expected = snn(*inputs)
    torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-9)
    run = simulate(snn, inputs[0] if len(inputs) == 1 else inputs, record="*", progress=False)
    assert run.flips.count == 0
    assert set(plain.report["sites"]) == set(snn.sites)
    for site, found in plain.report["sites"].items():
        (sent,) = seen[found["module"]]
        own = snn.sites[site]
        spikes = run.spikes[site]
        if own.gates is None:
            weights = own.weights.view(-1, *[1] * (spikes.dim() - 1))
        else:
            weights = own.weights.t()[:, run.intervals[site].long()]
        assert spikes.any(), site
        assert torch.equal(sent, spikes * weights), site
    return plain


@pytest.mark.parametrize("gates", [0, 3])
def test_the_spikes_of_every_site(small: nn.Module, images: Tensor, gates: int) -> None:
    plain = _assert_same_spikes(_snn(small, images, gates=gates), images[:7])
    kinds = {type(m) for m in plain.modules() if isinstance(m, neuron.FewSpikeNode)}
    assert kinds == {neuron.HGNode if gates else neuron.FewSpikeNode}
    assert type(plain.first) is layer.Conv2d and plain.first.step_mode == "m"
    assert not plain.report["decoded"]


def test_sites_of_different_lengths(small: nn.Module, images: Tensor) -> None:
    for steps in (7, 2):
        snn = _snn(small, images, per_site_steps={"act": steps}, steps=3)
        plain = _assert_same_spikes(snn, images[:3])
        assert len({found["steps"] for found in plain.report["sites"].values()}) == 2


def test_neurons_of_another_fit(small: nn.Module, images: Tensor) -> None:
    snn = _snn(small, images, steps=[4, 6])
    with snn.with_steps(6):
        plain = to_spikingjelly(snn)
        with torch.no_grad():
            torch.testing.assert_close(plain(images), snn(images), rtol=1e-4, atol=1e-4)
    assert {found["steps"] for found in plain.report["sites"].values()} == {6}


class _Layouts(nn.Module):
    """Linear operations and layouts of many kinds, on signals and with constants."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1, bias=True)
        self.one = nn.Conv1d(6, 5, 3, padding="same")
        self.shift = nn.Parameter(torch.randn(4, 1, 1))
        self.mix = nn.Parameter(torch.randn(5, 3))
        self.pool = nn.AvgPool2d(2, 2, 1, ceil_mode=True, count_include_pad=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(x)
        x = torch.relu(self.up(x) * 0.5 + self.shift - 0.25)
        y = torch.cat([x, 1.5 - x[:, :2].flip(-1)], 1)
        y = self.pool(y.transpose(2, 3))
        a, b = y.split([2, 4], 1)
        z = torch.cat([b.permute(0, 1, 3, 2), a], 1).roll(1, 2)
        z = torch.tanh(self.one(z.flatten(2) / 3))
        z = torch.nn.functional.pad(z, (1, 2)).unsqueeze(1).squeeze(1)
        z = (z.mean(-1) - z.sum(2) * self.mix[:, 0]) @ self.mix
        return {"plain": z, "halves": [z.view(-1, 3, 1).expand(-1, 3, 2)[..., 0], -z]}


def test_layouts_and_constants() -> None:
    torch.manual_seed(1)
    x = torch.randn(9, 2, 6, 6)
    snn = _snn(_Layouts(), x)
    assert len(snn.sites) >= 3
    plain = _assert_same_spikes(snn, x[:4])
    assert not plain.report["decoded"]
    assert isinstance(plain.up, layer.ConvTranspose2d) and isinstance(plain.one, layer.Conv1d)


class _Names(nn.Module):
    """Tied weights, weights without a layer, and names that a new module might take."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 5)
        self.matrix, self.constants = nn.Parameter(torch.randn(5, 5)), nn.Parameter(torch.randn(5))
        self.linear = nn.Linear(5, 5)
        self.bare = nn.Linear(5, 5, bias=False)
        self.bare.register_buffer("shift", torch.randn(5))

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.relu(nn.functional.linear(self.words(ids).mean(1), self.matrix))
        x = torch.relu(nn.functional.linear(x, self.matrix, self.constants) + self.linear.bias)
        x = torch.relu(self.bare(x) + self.bare.shift + self.constants + 0.25)
        x = torch.relu(self.linear(x) * self.linear.weight[0])
        return x @ self.words.weight.t()


def test_names_that_are_taken() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 7, (40, 3))
    snn = _snn(_Names(), ids).double()
    plain = to_spikingjelly(snn)
    with torch.no_grad():
        torch.testing.assert_close(plain(ids), snn(ids), rtol=1e-9, atol=1e-9)


def test_a_module_that_is_called_twice() -> None:
    torch.manual_seed(2)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(torch.relu(self.linear(torch.relu(self.linear(x)))))

    x = torch.randn(30, 5)
    plain = _assert_same_spikes(_snn(Twice(), x), x)
    layers = [m for m in plain.modules() if isinstance(m, layer.Linear)]
    assert len(layers) == 3 and len({id(m.weight) for m in layers}) == 1


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vit = torchvision.models.VisionTransformer(8, 4, 1, 2, 8, 16, num_classes=3)
        nn.init.normal_(self.vit.heads.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x)


class _Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool = nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)
        self.head = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(nn.functional.silu(self.conv(x)))
        return self.head(nn.functional.gelu(x).flatten(1))


@pytest.mark.parametrize(
    ("model", "shape", "left"),
    [
        (_Attention(), (6, 3, 8, 8), {("bmm", "product"), ("layer_norm", "remaining")}),
        (_Pooled(), (6, 1, 8, 8), {("max_pool2d", "remaining")}),
    ],
    ids=["products and norms", "max pool"],
)
def test_what_takes_decoded_values_is_listed(
    model: nn.Module, shape: tuple[int, ...], left: set[tuple[str, str]]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    snn = _snn(model, x)
    plain = _assert_same_spikes(snn, x[:3])
    listed = {(row["op"], row["kind"]) for row in plain.report["decoded"]}
    told = snn.report.to_dict()
    named = {(row["op"], "product") for row in told["products"]}
    named |= {(row["op"], "remaining") for row in told["remaining"]}
    assert named <= listed
    assert {kind for _, kind in left} <= {kind for _, kind in listed}


def test_a_recurrent_layer() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    x = torch.randn(12, 3, 3)
    snn = _snn(Net(), x)
    plain = to_spikingjelly(snn)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), snn(x), rtol=1e-5, atol=1e-5)
    nodes = [m for m in plain.modules() if isinstance(m, neuron.FewSpikeNode)]
    assert len(nodes) == len(snn.sites)


def test_spikingjelly_works_on_it(small: nn.Module, images: Tensor) -> None:
    plain = to_spikingjelly(_snn(small, images))
    functional.set_step_mode(plain, "m")
    functional.reset_net(plain)
    with pytest.raises(ValueError, match="step_mode can only be"):
        functional.set_step_mode(plain, "s")
    with torch.no_grad():
        expected = plain(images)
    macs, flops = op_counter.MACCounter(), op_counter.FlopCounter()
    with torch.no_grad(), op_counter.DispatchCounterMode([macs, flops]):
        assert torch.equal(plain(images), expected)
    # Weighted spikes are no zeros and ones: every step of the second layer is dense for it.
    per_place = 48 * 64 * 9
    assert macs.get_total() >= per_place * (6 + 4 * 36)
    assert flops.get_total() > 0
    loss = plain.train()(images).square().sum()
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in plain.parameters())


_ALONE = """
import sys, torch
sys.modules["convert"] = None  # importing it fails
plain = torch.load(sys.argv[1] + "/net.pt", weights_only=False)
held = torch.load(sys.argv[1] + "/known.pt")
plain.load_state_dict(held["state"])
with torch.no_grad():
    assert torch.equal(plain(held["x"]), held["y"])
    assert torch.equal(plain(held["x"][:2]), held["two"])
from spikingjelly.activation_based import functional
functional.set_step_mode(plain, "m")
try:
    functional.set_step_mode(plain, "s")
except ValueError:
    print("read", sorted(plain.report), not any(m.startswith("convert.") for m in sys.modules))
"""


@pytest.mark.parametrize("gates", [0, 3])
def test_a_process_without_this_package(
    small: nn.Module, images: Tensor, tmp_path: Path, gates: int
) -> None:
    snn = _snn(small, images, gates=gates)
    snn.save(tmp_path / "net.fsnn")
    plain = snn.to_spikingjelly()
    again = to_spikingjelly(load(tmp_path / "net.fsnn"))
    with torch.no_grad():
        y, two = plain(images), plain(images[:2])
        assert torch.equal(again(images), y)
        assert torch.equal(to_spikingjelly(snn)(images), y)
    known = {"x": images, "y": y, "two": two, "state": plain.state_dict()}
    torch.save(plain, tmp_path / "net.pt")
    torch.save(known, tmp_path / "known.pt")
    result = subprocess.run(
        [sys.executable, "-c", _ALONE, str(tmp_path)],
        cwd=tmp_path, env={"PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.stdout.split() == ["read", "['decoded',", "'layers',", "'sites']", "True"], result


def test_refusals(small: nn.Module, images: Tensor) -> None:
    snn = _snn(small, images)
    with snn.readout(2), pytest.raises(ConversionError, match="readout"):
        to_spikingjelly(snn)
    with snn.spiking_only(["act"]), pytest.raises(ConversionError, match="spiking_only"):
        to_spikingjelly(snn)
    with pytest.raises(ConversionError, match="found a Small"):
        to_spikingjelly(small)  # type: ignore[arg-type]
    with pytest.raises(ConversionError, match=r"float16.*\.float\(\)"):
        to_spikingjelly(_snn(small, images).half())
