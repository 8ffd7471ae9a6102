"""ONNX: every neuron bit for bit, whole networks to rounding, any batch size."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import models
from convert import ConversionError, FewSpikesNeuron, load, to_spiking
from convert.exporters.spike_outputs import SpikesBeside
from convert.inspect import simulate
from models.data import Loader

onnxruntime = pytest.importorskip("onnxruntime", reason="exports are run in onnxruntime")
pytest.importorskip("onnxscript", reason="exports need onnxscript")


def _run(path: Path, *inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    named = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(np.asarray(y)) for y in session.run(None, named)]


class _Only(nn.Module):
    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(x)


def _hard(neuron: FewSpikesNeuron) -> Tensor:
    """Inputs at, and one float around, every value at which a step decides anew."""
    edges = [neuron.thresholds.new_zeros(1)]
    for threshold, reset in zip(neuron.thresholds, neuron.resets, strict=True):
        edges.append(threshold.view(1))
        edges += [edges[-1] + reset, threshold.view(1) + neuron.resets.cumsum(0)]
    x = torch.cat(edges)
    around = [x, torch.nextafter(x, x + 1), torch.nextafter(x, x - 1)]
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    return torch.cat([*around, special, 3 * noise, 0.01 * noise])


def test_every_neuron_bit_for_bit(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    snn = to_spiking(small, images, steps=8, method="binary", progress=False)
    for name, neuron in snn.sites.items():
        x = _hard(neuron)
        batch = torch.export.Dim("batch", min=1)
        program = torch.onnx.export(
            _Only(neuron).eval(), (x,), dynamo=True, dynamic_shapes=[{0: batch}], verbose=False
        )
        program.save(str(tmp_path / "n.onnx"))
        (found,) = _run(tmp_path / "n.onnx", x)
        expected = neuron(x)
        assert torch.equal(found.isnan(), expected.isnan()), name
        assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7)), name


@pytest.mark.parametrize("loaded", [False, True])
def test_a_network_in_any_batch_size(
    small: nn.Module, images: Tensor, tmp_path: Path, loaded: bool
) -> None:
    snn = to_spiking(small, images, steps=6, method="binary", progress=False)
    if loaded:
        snn.save(tmp_path / "net.fsnn")
        snn = load(tmp_path / "net.fsnn")
    snn.export(tmp_path / "net.onnx")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".fsnn"] * loaded + [".onnx"]
    for size in (1, 7, 48):
        with torch.no_grad():
            expected = snn(images[:size])
        (found,) = _run(tmp_path / "net.onnx", images[:size])
        # A spike may flip at rounding: nearly all outputs are equal, none is far away.
        assert found.shape == expected.shape
        assert ((found - expected).abs() > 1e-4).float().mean() < 0.1
        assert (found - expected).norm() < 0.05 * expected.norm()


def test_attention_and_trees(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = torchvision.models.VisionTransformer(8, 4, 1, 2, 8, 16, num_classes=3)
            nn.init.normal_(self.vit.heads.head.weight)

        def forward(self, x: Tensor, scale: float) -> dict[str, Tensor]:
            y = self.vit(x)
            return {"logits": y, "scaled": y * scale}

    x = torch.randn(6, 3, 8, 8)
    batch = {"x": x, "scale": 2.0}
    snn = to_spiking(Two().eval(), [batch], steps=4, method="binary", progress=False)
    snn.export(tmp_path / "net.onnx")
    logits, scaled = _run(tmp_path / "net.onnx", x[:5])
    with torch.no_grad():
        expected = snn(x[:5], 2.0)
    assert torch.allclose(scaled, 2 * logits)
    assert (logits - expected["logits"]).norm() < 0.1 * expected["logits"].norm()


class _Linear(nn.Module):
    """Layers whose sums onnxruntime runs in float64 as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(6, 8), nn.Linear(8, 3), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)) + torch.tanh(self.first(x)))


@pytest.mark.parametrize("gates", [0, 2])
def test_spikes_as_outputs(tmp_path: Path, gates: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 6)
    snn = to_spiking(
        _Linear().eval(), x, steps=4, gates=gates, method="binary", progress=False
    ).double()
    x = x.double()
    snn.export(tmp_path / "net.onnx", spikes=True)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    kinds = ["spikes", "interval"] if gates else ["spikes"]
    assert names[0] == "output0"
    assert set(names[1:]) == {f"{kind}.{site}" for kind in kinds for site in snn.sites}
    for images in (x, x[:1]):
        found = dict(zip(names, session.run(None, {"x": images.numpy()}), strict=True))
        run = simulate(snn, images, record="*", progress=False)
        assert run.flips.count == 0
        for site in snn.sites:
            assert np.array_equal(found[f"spikes.{site}"], run.spikes[site].numpy()), site
            if gates:
                tables = run.intervals[site].numpy()
                assert np.array_equal(found[f"interval.{site}"], tables), site
        np.testing.assert_allclose(found["output0"], run.outputs.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gates", [None, 2])
def test_a_neuron_with_spikes_beside_bit_for_bit(tmp_path: Path, gates: int | None) -> None:
    T, h, d = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    neuron = FewSpikesNeuron(T, h.abs(), d, 0.25)
    if gates:
        rows = [torch.stack([r, 0.5 * r, r.flip(0)]) for r in (T, h.abs(), d)]
        neuron = FewSpikesNeuron(*rows, [0.25, 0.0, -1.5], [-0.4, 0.6])
    flat = FewSpikesNeuron(T, h.abs(), d)
    x = torch.cat([_hard(flat), torch.tensor([-0.4, 0.6])])
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        SpikesBeside(neuron).eval(), (x,), dynamo=True, dynamic_shapes=[{0: batch}], verbose=False
    )
    program.save(str(tmp_path / "n.onnx"))
    y, spikes, interval = _run(tmp_path / "n.onnx", x)
    expected = neuron(x)
    assert torch.equal(y.nan_to_num(7), expected.nan_to_num(7))
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(spikes, neuron.spikes(x)) and torch.equal(interval, neuron.interval(x))


def test_a_network_with_spikes_in_float32(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    snn = to_spiking(small, images, steps=6, method="binary", progress=False)
    snn.export(tmp_path / "net.onnx", spikes=True)
    logits, *spikes = _run(tmp_path / "net.onnx", images)
    with torch.no_grad():
        assert (logits - snn(images)).norm() < 0.05 * logits.norm()
    run = simulate(snn, images, record="*", progress=False)
    for found, expected in zip(spikes, run.spikes.values(), strict=True):
        # A spike may flip at rounding.
        assert found.shape == expected.shape and expected.any()
        assert (found != expected).float().mean() < 1e-3


def test_refusals(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    snn = to_spiking(small, images, steps=4, method="binary", progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConversionError, match="file"):
        snn.export(tmp_path / "file" / "net.onnx")
    with snn.readout(2), pytest.raises(ConversionError, match="ONNX file with spikes"):
        snn.export(tmp_path / "net.onnx", spikes=True)
    with pytest.raises(ConversionError, match="of ONNX alone"):
        snn.export(tmp_path / "net.nir", spikes=True)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet20", "resnet20-12fca82f.th"), ("vit_tiny", "vit_tiny_cifar10.pt")],
)
def test_trained_networks(shared: Path, tmp_path: Path, name: str, weights: str) -> None:
    model = models.get(name, shared / "checkpoints" / weights)
    # Trained blocks, fewer of each kind: the export of every block is the same.
    for stack in ("layer1", "layer2", "layer3"):
        if hasattr(model, stack):
            setattr(model, stack, getattr(model, stack)[:1])
    if hasattr(model, "encoder"):
        model.encoder.layers = model.encoder.layers[:1]
    preprocessing = models.preprocessing(name)
    calibration = models.load_images(shared / "data" / "cifar10_train4000.npz").first(64)
    test = models.load_images(shared / "data" / "cifar10_test1000.npz").first(250)
    # Every step is nodes of the file: fewer of them show the same.
    snn = to_spiking(
        model, Loader(calibration, preprocessing), steps=3, method="binary", sequential=False,
        progress=False,
    )  # fmt: skip
    snn.export(tmp_path / "net.onnx")
    equal = 0
    with torch.no_grad():
        for images, _ in test.batches(preprocessing, 125):
            (found,) = _run(tmp_path / "net.onnx", images)
            equal += int((found.argmax(1) == snn(images).argmax(1)).sum())
    assert equal >= 249
