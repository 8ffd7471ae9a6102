"""NIR files, run by an interpreter that knows nothing of this package: the simulation's spikes."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from convert import ConversionError, SpikingModel, load, to_spiking
from convert.exporters import export_nir, nir_size
from convert.exporters.nir_graph import NirSize
from convert.inspect import simulate
from models.data import Loader

nir = pytest.importorskip("nir", reason="files of NIR are read by nir")

import nir_interpreter  # noqa: E402


def _snn(model: nn.Module, data: Any, **settings: Any) -> SpikingModel:
    settings = {"steps": 4, "method": "binary", "progress": False} | settings
    return to_spiking(model.eval(), data, **settings)


def _assert_same_spikes(snn: SpikingModel, path: Path, images: Tensor) -> Any:
    """Spikes of every site in float64, and the outputs; gives the graph that was read."""
    snn = snn.double()
    size = export_nir(snn, path, progress=False)
    graph = nir.read(path)
    assert size == nir_size(snn)
    assert (len(graph.nodes), len(graph.edges)) == (size.nodes, size.edges)
    images = images.double()
    (name,) = graph.inputs
    values = nir_interpreter.run(graph, **{name: images.numpy()})
    run = simulate(snn, images, record="*", progress=False)
    assert run.flips.count == 0
    for site in snn.sites:
        found = nir_interpreter.spikes_of(graph, values, site)
        assert run.spikes[site].any(), site
        assert np.array_equal(found, run.spikes[site].numpy()), site
    np.testing.assert_allclose(values["output"], run.outputs.numpy(), rtol=1e-9, atol=1e-9)
    return graph


@pytest.mark.parametrize("gates", [0, 3])
def test_the_spikes_of_every_site(
    small: nn.Module, images: Tensor, tmp_path: Path, gates: int
) -> None:
    snn = _snn(small, images, gates=gates)
    graph = _assert_same_spikes(snn, tmp_path / "net.nir", images[:9])
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    assert set(kinds) <= {
        "Affine", "AvgPool2d", "Conv2d", "Flatten", "Input", "Output", "Scale", "Threshold"
    }  # fmt: skip
    fires = [name for name in graph.nodes if ".fire" in name]
    assert len(fires) == 4 * (gates + 1) * len(snn.sites)


def test_gates_that_are_equal(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    snn = _snn(small, images, gates=2)
    for neuron in snn.sites.values():
        neuron.gates[1] = neuron.gates[0]
    _assert_same_spikes(snn, tmp_path / "net.nir", images[:9])


class _Kinds(nn.Module):
    """Operations of many kinds that NIR's nodes can say."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(2, 6, (3, 2), (1, 2), (2, 1), dilation=(2, 1), groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.pools = nn.ModuleList(
            [
                nn.AvgPool2d(3, 2, 1, count_include_pad=False),
                nn.AvgPool2d((3, 3), 2, 1),
                nn.AvgPool2d((2, 1), 2),
            ]
        )
        self.places = nn.Parameter(torch.randn(6, 4, 1))
        self.row, self.adaptive = nn.Conv1d(14, 5, 3, padding="same"), nn.AdaptiveAvgPool2d((2, 1))
        self.head = nn.Linear(10, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(torch.relu(self.grouped(x))))
        a, b, c = (pool(x) for pool in self.pools)
        x = torch.tanh(a - 0.5 * b + self.places - 0.25)
        pad = torch.nn.functional.pad
        y = torch.cat([x[:, 1:4], 1.5 - pad(c, (0, 2, 2, 0))[:, ::2][:, :, 2:, :3]], 1)
        y = pad(y, (1, 1, 1, 1))[:, :, 1:-1, 1:-1]
        y = torch.cat([y, y[:, :1] + y[:, :1], pad(y, (0, 0, 0, 0, 0, 1))], 1)
        y = torch.relu(-y / 2)[:, :, 1::2, :]
        z = torch.relu(self.row(y.flatten(2)))
        z = (z + z).flatten(1)[:, 2:12]
        return (
            self.head(z) + self.adaptive(x[:, :, :4, :1]).flatten(1)[:, :3] + x.sum((2, 3))[:, :3]
        )


def test_operations_of_many_kinds(tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(12, 2, 8, 8)
    model = _Kinds()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    snn = _snn(model, x)
    graph = _assert_same_spikes(snn, tmp_path / "net.nir", x[:5])
    kinds = {type(node).__name__ for node in graph.nodes.values()}
    assert {"Conv1d", "SumPool2d", "AvgPool2d", "Linear", "Flatten"} <= kinds


def test_a_layer_that_is_called_twice_and_a_loaded_network(tmp_path: Path) -> None:
    torch.manual_seed(2)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.act = nn.Linear(5, 5), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.act(self.linear(self.act(self.linear(x)))))

    x = torch.randn(30, 5)
    snn = _snn(Twice(), x)
    snn.save(tmp_path / "net.fsnn")
    _assert_same_spikes(snn, tmp_path / "net.nir", x)
    _assert_same_spikes(load(tmp_path / "net.fsnn"), tmp_path / "loaded.nir", x)


def test_a_recurrent_layer_is_refused(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0][:, -1]

    snn = _snn(Net(), torch.randn(12, 3, 3))
    with pytest.raises(ConversionError, match=r"NIR has no nodes for .*at rnn"):
        export_nir(snn, tmp_path / "net.nir", progress=False)


def test_the_quickstart_network(tmp_path: Path) -> None:
    model, preprocessing = models.get("resnet8_digits"), models.preprocessing("resnet8_digits")
    digits, test = models.load_images("digits", train=True), models.load_images("digits")
    snn = _snn(model, Loader(digits.first(64), preprocessing), sequential=False)
    ((images, _),) = test.first(5).batches(preprocessing, 5)
    _assert_same_spikes(snn, tmp_path / "net.nir", images)


def test_resnet20(shared: Path, tmp_path: Path) -> None:
    model = models.get("resnet20", shared / "checkpoints" / "resnet20-12fca82f.th")
    preprocessing = models.preprocessing("resnet20")
    calibration = models.load_images(shared / "data" / "cifar10_train4000.npz").first(64)
    test = models.load_images(shared / "data" / "cifar10_test1000.npz").first(1)
    snn = _snn(model, Loader(calibration, preprocessing), steps=3, sequential=False)
    ((images, _),) = test.batches(preprocessing, 1)
    _assert_same_spikes(snn, tmp_path / "net.nir", images)


def test_the_compact_form(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    snn = _snn(small, images, gates=2)
    size = export_nir(snn, tmp_path / "net.nir", compact=True, progress=False)
    assert size == nir_size(snn, compact=True) and size.nodes < nir_size(snn).nodes / 5
    graph = nir.read(tmp_path / "net.nir")
    assert graph.metadata["form"] == "compact"
    held = {
        node.metadata["site"]: node.metadata
        for node in graph.nodes.values()
        if node.metadata.get("neuron") == "few_spikes"
    }
    assert set(held) == set(snn.sites)
    for site, neuron in snn.sites.items():
        for name in ("thresholds", "resets", "weights", "offset", "gates"):
            assert np.array_equal(held[site][name], getattr(neuron, name).numpy()), name


def test_sizes_are_said_first(
    small: nn.Module, images: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snn = _snn(small, images)
    size = nir_size(snn)
    # The arrays are what they are counted as.
    snn.export(tmp_path / "net.nir")
    assert capsys.readouterr().err == f"{tmp_path / 'net.nir'}: {size}\n"
    graph = nir.read(tmp_path / "net.nir")
    held = [v for n in graph.nodes.values() for v in vars(n).values() if isinstance(v, np.ndarray)]
    assert size.bytes == pytest.approx(sum(v.nbytes for v in held), rel=0.01)
    with pytest.raises(ConversionError, match=rf"limit=1,000 bytes; give limit={size.bytes}, comp"):
        snn.export(tmp_path / "other.nir", limit=1000)
    with pytest.raises(ConversionError, match=r"or fewer steps"):
        snn.export(tmp_path / "other.nir", limit=1000, compact=True)
    assert not (tmp_path / "other.nir").exists()
    assert str(NirSize(1200, 3400, 5_600_000)) == "1,200 nodes, 3,400 edges, 5.6 MB of arrays"


def test_parts_without_nodes_are_named(tmp_path: Path) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.norm = nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.LayerNorm(3)
            self.up = nn.ConvTranspose2d(4, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv(x))
            return self.up(x).sum((2, 3)), self.norm(self.pool(x)), x.permute(0, 2, 1, 3)

    x = torch.randn(6, 1, 8, 8)
    snn = _snn(Parts(), x)
    named = r"conv_transpose2d at up, .*max_pool2d\S* at pool, permute at "
    with pytest.raises(ConversionError, match=named) as found:
        export_nir(snn, tmp_path / "net.nir", progress=False)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


def test_a_kernel_that_can_not_be_square(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, (1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(112, 3))
    with pytest.raises(ConversionError, match="NIR has no nodes for conv2d at 0;"):
        export_nir(_snn(net, images), tmp_path / "net.nir", progress=False)


def test_refusals(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snn = _snn(small, images)
    with snn.readout(2), pytest.raises(ConversionError, match="readout"):
        snn.export(tmp_path / "net.nir")
    words = _snn(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.ReLU()),
                 torch.randint(0, 9, (8, 5)))  # fmt: skip
    with pytest.raises(ConversionError, match="int64 at the input"):
        words.export(tmp_path / "net.nir")
    with pytest.raises(ConversionError, match=r"compact=.*NIR alone"):
        snn.export(tmp_path / "net.onnx", compact=True)
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ConversionError, match="pip install nir"):
        snn.export(tmp_path / "net.nir")
