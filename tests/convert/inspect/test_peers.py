"""SpikingJelly and NeuroBench count the same operations as we do, or the test says what differs."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based.op_counter import (
    ACCounter,
    DispatchCounterMode,
    MACCounter,
    ModuleCounterMode,
    NeuromorphicMemoryAccessCounter,
    SynOpCounter,
    estimate_simple_energy,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import models
from convert import SpikingModel, to_spiking
from convert.inspect import as_spiking_module, simulate
from convert.inspect.operation_counts import OperationCounts
from convert.inspect.spiking_module import SpikeBySpike, Spikes
from models.data import Loader

_STEPS = 4


class Mixed(nn.Module):
    """Borders, strides, groups, a shortcut, a pooling between layers and one before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.wide = nn.Conv2d(8, 12, (2, 1), dilation=(1, 2))
        self.head = nn.Linear(12, 5)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.grouped(self.act(self.first(x))))
        x = F.silu(self.second(x) + x)
        x = self.act(self.wide(F.avg_pool2d(x, 2)))
        return self.head(x.mean((2, 3)))


# Neurons, and values that the shortcut of `Mixed` brings, for one image of 12 x 12 pixels.
_NEURONS = 8 * 12 * 12 + 2 * 8 * 6 * 6 + 12 * 2 * 3
_SHORTCUT = 8 * 6 * 6


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """With pixels of 0; not to be changed."""
    x = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return torch.where(x < -1, 0.0, x)


def _model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Mixed().eval()


def _converted(model: nn.Module, x: Tensor, gates: int = 0) -> SpikingModel:
    given: dict[str, Any] = {"gates": gates} if gates else {}
    return to_spiking(model, x, steps=_STEPS, method="binary", progress=False, **given)


def _by_layer(counts: OperationCounts, quantity: str) -> Counter[str]:
    """Of all images, by the place of a layer with weights."""
    found: Counter[str] = Counter()
    for layer in counts.layers:
        if layer.op in ("conv2d", "linear"):
            found[layer.name] += round(layer[quantity] * counts.images)
    return found


def _counted(module: SpikeBySpike, x: Tensor, counter: Any) -> tuple[Counter[str], int]:
    """What one of SpikingJelly's counters finds by the place of a layer, and in all."""
    with DispatchCounterMode([counter]):
        module(x)
    counts, found = counter.get_counts(), Counter[str]()
    for path, place in module.places.items():
        if path.startswith("layers."):
            found[place] += sum(counts.get(f"SpikeBySpike.{path}", {}).values())
    return found, counter.get_total()


def _weight_reads(module: SpikeBySpike, x: Tensor) -> Counter[str]:
    """By SpikingJelly's counter of memory, in weights."""
    counter = NeuromorphicMemoryAccessCounter()
    with ModuleCounterMode([counter], model=module):
        module(x)
    counts, found = counter.get_counts(), Counter[str]()
    for path, place in module.places.items():
        if path.startswith("layers."):
            size = module.get_submodule(path).weight.element_size()
            found[place] += counts[f"SpikeBySpike.{path}"]["weight_read_bytes"] // size
    return found


def _whole(counts: OperationCounts, quantity: str) -> int:
    return round(counts[quantity] * counts.images)


@pytest.mark.parametrize("gates", [0, 2])
def test_spikingjelly_counts_the_same_in_every_layer(pictures: Tensor, gates: int) -> None:
    snn = _converted(_model(), pictures, gates)
    counts, module = simulate(snn, pictures, progress=False).counts, as_spiking_module(snn)
    accumulates, in_all = _counted(module, pictures, SynOpCounter())
    assert accumulates == _by_layer(counts, "accumulates")
    assert in_all == _whole(counts, "accumulates") > 100_000
    # Additions that it sees inside of layers are the same.
    assert _counted(module, pictures, ACCounter())[0] == accumulates
    products, in_all = _counted(module, pictures, MACCounter())
    assert products == _by_layer(counts, "multiply_accumulates")
    # The products by d are in none of its counters.
    assert in_all == _whole(counts, "multiply_accumulates") and counts["scalings"] > 0
    assert _weight_reads(module, pictures) == _by_layer(counts, "weight_reads")


def test_what_spikingjelly_adds_outside_of_layers(pictures: Tensor) -> None:
    """It adds densely what we add at an event: shortcuts, and what a spike takes off."""
    snn = _converted(_model(), pictures)
    counts, module = simulate(snn, pictures, progress=False).counts, as_spiking_module(snn)
    synaptic, additions = SynOpCounter(), ACCounter()
    with DispatchCounterMode([synaptic, additions]):
        module(pictures)
    outside = additions.get_total() - synaptic.get_total()
    assert counts.neurons == _NEURONS
    dense = len(pictures) * _STEPS * (_NEURONS + _SHORTCUT)
    assert outside == _whole(counts, "scalings") + dense
    # Ours: an addition at each event on the shortcut, a subtraction at each spike.
    sparse = _whole(counts, "additions") + _whole(counts, "events")
    assert 0 < sparse < dense
    # Comparisons with thresholds are in none of its counters.
    compared = len(pictures) * _STEPS * _NEURONS
    assert _whole(counts, "neuron_updates") == compared + _whole(counts, "events")


def test_what_spikingjelly_counts_of_its_own_counting(pictures: Tensor) -> None:
    """Its energy estimate adds sums that its counter of memory makes: one a place of a layer."""
    module = as_spiking_module(_converted(_model(), pictures))
    calls: list[int] = []
    for layer in module.layers.values():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda m, _, out: calls.append(_places(m, out)))
    report = estimate_simple_energy(module, pictures)
    # The first layer gets the image, no spikes.
    own = sum(calls[1:])
    assert report.counts["synop"] == _counted(module, pictures, SynOpCounter())[1]
    assert report.counts["ac"] - own == _counted(module, pictures, ACCounter())[1]


def _places(layer: nn.Module, out: Tensor) -> int:
    """Additions of a sum over groups and places."""
    assert isinstance(layer, nn.Conv2d)
    return out[:, 0].numel() * layer.groups - 1


@pytest.mark.parametrize("peer", ["spikingjelly", "neurobench"])
def test_a_weight_of_zero_is_a_synapse_for_spikingjelly_alone(pictures: Tensor, peer: str) -> None:
    model = _model()
    model.second.weight.data[0] = 0.0
    snn = _converted(model, pictures)
    counts, module = simulate(snn, pictures, progress=False).counts, as_spiking_module(snn)
    ours = _by_layer(counts, "accumulates")["second"]
    if peer == "spikingjelly":
        # One of eight output channels has no synapse.
        assert 8 * ours == 7 * _counted(module, pictures, SynOpCounter())[0]["second"] > 0
        return
    found = _benchmarked(module, pictures)["SynapticOperations"]
    assert found["Effective_ACs"] == pytest.approx(counts["accumulates"], rel=1e-12)


def _benchmarked(module: SpikeBySpike, x: Tensor, batch: int = 4) -> dict[str, Any]:
    """What NeuroBench finds, with the network's own predictions as labels."""
    pytest.importorskip("neurobench")
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.static import Footprint
    from neurobench.metrics.workload import (
        ActivationSparsity,
        ActivationSparsityByLayer,
        ClassificationAccuracy,
        MembraneUpdates,
        SynapticOperations,
    )
    from neurobench.models import TorchModel

    model = TorchModel(module)
    model.add_activation_module(Spikes)
    # In float32 it adds up to 2^24 exactly.
    loader = DataLoader(TensorDataset(x, module(x).argmax(1)), batch)
    static, workload = (
        [Footprint],
        [
            ActivationSparsity,
            ActivationSparsityByLayer,
            ClassificationAccuracy,
            MembraneUpdates,
            SynapticOperations,
        ],
    )
    benchmark = Benchmark(model, loader, [], [lambda y: y.argmax(1)], [static, workload])
    found: dict[str, Any] = benchmark.run(quiet=True)
    return found


@pytest.mark.parametrize("gates", [0, 2])
def test_neurobench_counts_the_same(pictures: Tensor, gates: int) -> None:
    snn = _converted(_model(), pictures, gates)
    simulation, module = simulate(snn, pictures, progress=False), as_spiking_module(snn)
    counts, found = simulation.counts, _benchmarked(module, pictures)
    synaptic = found["SynapticOperations"]
    assert synaptic["Effective_ACs"] == pytest.approx(counts["accumulates"], rel=1e-12)
    # A site speaks once a step, and once for its gates: every event, over all that could be.
    ticks = _STEPS + (gates > 0)
    assert 1 - found["ActivationSparsity"] == pytest.approx(counts.spikes_per_neuron / ticks)
    silent = {name: float(rate.sum()) for name, rate in simulation.rates.items()}
    if not gates:
        by_layer = found["ActivationSparsityByLayer"]
        assert {n: (1 - s) * ticks for n, s in by_layer.items()} == pytest.approx(silent)
    tensors = module.network.state_dict().values()
    assert found["Footprint"] == sum(t.numel() * t.element_size() for t in tensors)
    assert found["ClassificationAccuracy"] == 1
    # It knows no neurons but snnTorch's.
    assert found["MembraneUpdates"] == 0


def test_neurobench_leaves_out_borders_and_black_pixels(pictures: Tensor) -> None:
    snn = _converted(_model(), pictures)
    counts, module = simulate(snn, pictures, progress=False).counts, as_spiking_module(snn)
    full: list[tuple[str, float]] = []

    def note(place: str, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        ones = torch.ones_like(layer.weight), torch.ones_like(given[0])
        if isinstance(layer, nn.Linear):
            full.append((place, float(F.linear(ones[1], ones[0]).sum())))
            return
        shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
        full.append((place, float(F.conv2d(ones[1], ones[0], None, *shape).sum())))

    handles = [
        layer.register_forward_pre_hook(partial(note, place))
        for place, layer in module.layers.items()
    ]
    module(pictures)
    for handle in handles:
        handle.remove()
    found = _benchmarked(module, pictures, len(pictures))["SynapticOperations"]
    ones = torch.ones_like(module.get_submodule("layers.first").weight)
    there = F.conv2d((pictures != 0).float(), ones, padding=1).sum() / len(pictures)
    assert found["Effective_MACs"] == pytest.approx(float(there), rel=1e-12)
    assert found["Effective_MACs"] < counts["multiply_accumulates"] == 8 * 27 * 144
    # Its dense count is that of every call, without borders: one a train, more behind a pooling.
    assert found["Dense"] * len(pictures) == pytest.approx(sum(n for _, n in full), rel=1e-12)
    calls = Counter(place for place, _ in full)
    assert calls["first"] == 1 and calls["grouped"] == calls["second"] == _STEPS
    assert calls["wide"] > _STEPS and calls["head"] > _STEPS
    assert counts["dense_multiply_accumulates"] < found["Dense"]


@pytest.fixture(scope="module")
def resnet20(shared: Path) -> tuple[nn.Module, SpikingModel, Tensor]:
    """With real weights; and four images."""
    model = models.get("resnet20", weights=shared / "checkpoints" / "resnet20-12fca82f.th")
    preprocessing = models.preprocessing("resnet20")
    calibration = models.load_images(shared / "data" / "cifar10_train4000.npz").first(64)
    test = models.load_images(shared / "data" / "cifar10_test1000.npz").first(4)
    snn = _converted(model, Loader(calibration, preprocessing))
    return model, snn, next(iter(Loader(test, preprocessing)))[0]


def test_resnet20_by_hand(resnet20: tuple[nn.Module, SpikingModel, Tensor]) -> None:
    """Masks convolved with ones where a weight isn't 0, from the spikes of `snn.sites` alone."""
    model, snn, x = resnet20
    simulation = simulate(snn, x, progress=False)
    assert not simulation.flips.count
    inputs: dict[str, Tensor] = {}
    handles = [
        site.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        for name, site in snn.sites.items()
    ]
    snn(x)
    for handle in handles:
        handle.remove()
    masks = {name: snn.sites[name].spikes(v).double().flatten(0, 1) for name, v in inputs.items()}
    assert len(masks) == 19
    found = {"conv1": 0}
    before = "act1"
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            place = f"layer{stage}.{block}"
            for conv, source in (("conv1", before), ("conv2", f"{place}.act1")):
                layer = model.get_submodule(f"{place}.{conv}")
                synapses = (layer.weight != 0).double()
                arrived = F.conv2d(masks[source], synapses, None, layer.stride, layer.padding)
                found[f"{place}.{conv}"] = int(arrived.sum())
            before = f"{place}.act2"
    found["linear"] = int(masks[before].sum()) * 10
    assert found == dict(_by_layer(simulation.counts, "accumulates"))
    assert sum(found.values()) == _whole(simulation.counts, "accumulates") > 10_000_000
    assert sum(int(mask.sum()) for mask in masks.values()) == _whole(simulation.counts, "events")


def test_resnet20_by_spikingjelly(resnet20: tuple[nn.Module, SpikingModel, Tensor]) -> None:
    _, snn, x = resnet20
    simulation, module = simulate(snn, x, progress=False), as_spiking_module(snn)
    counts = simulation.counts
    torch.testing.assert_close(module(x), simulation.outputs, rtol=1e-5, atol=1e-5)
    accumulates, in_all = _counted(module, x, SynOpCounter())
    assert len(accumulates) == 20 and accumulates == _by_layer(counts, "accumulates")
    assert in_all == _whole(counts, "accumulates")
    products, in_all = _counted(module, x, MACCounter())
    assert products == _by_layer(counts, "multiply_accumulates")
    assert in_all == _whole(counts, "multiply_accumulates")
    assert _weight_reads(module, x) == _by_layer(counts, "weight_reads")
    # Every shortcut brings the trains of one site, added densely.
    shortcuts = 3 * (16 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8)
    dense = len(x) * _STEPS * (counts.neurons + shortcuts)
    outside = _counted(module, x, ACCounter())[1] - _whole(counts, "accumulates")
    assert outside == _whole(counts, "scalings") + dense


def test_resnet20_by_neurobench(resnet20: tuple[nn.Module, SpikingModel, Tensor]) -> None:
    _, snn, x = resnet20
    counts, module = simulate(snn, x, progress=False).counts, as_spiking_module(snn)
    found = _benchmarked(module, x)
    accumulates = found["SynapticOperations"]["Effective_ACs"]
    assert accumulates == pytest.approx(counts["accumulates"], rel=1e-12)
    assert 1 - found["ActivationSparsity"] == pytest.approx(counts.spikes_per_neuron / _STEPS)
