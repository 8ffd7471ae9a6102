"""A network run spike by spike equals the fast run; records, ticks, flips and bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.random_networks import RandomNetwork, images
from support.rows_of_steps import RowsOfSteps
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from convert import SpikingModel, load, to_spiking
from convert.errors import InputError, SiteError
from convert.inspect import count_operations, simulate
from convert.neuron.few_spikes import FewSpikesNeuron


class Skipping(nn.Module):
    """Convolutions with a stride, groups and a skip, a pooling, and weights behind weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.down = nn.Conv2d(4, 6, 3, stride=2)
        self.narrow = nn.Conv2d(6, 3, 1, bias=False)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x) + x)
        x = torch.relu(self.down(nn.functional.avg_pool2d(x, 2, 1)))
        return self.head(self.narrow(x).mean((2, 3)))


def _converted(gates: int = 0, steps: int = 4) -> tuple[SpikingModel, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(12, 2, 8, 8)
    snn = to_spiking(
        Skipping().eval(), x, steps=(steps, 2), gates=gates, method="binary", progress=False
    )
    return snn.double(), x.double()


@pytest.fixture(scope="module")
def plain() -> tuple[SpikingModel, Tensor]:
    return _converted()


@pytest.fixture(scope="module")
def gated() -> tuple[SpikingModel, Tensor]:
    return _converted(gates=2)


def _inputs(snn: SpikingModel, x: Tensor) -> dict[str, Tensor]:
    """What comes to every site in the fast run."""
    inputs: dict[str, Tensor] = {}
    # Neurons may write over their input.
    with snn.running(watchers=(lambda site, v: inputs.__setitem__(site, v.clone()),)):
        snn(x)
    return inputs


def _close(found: object, expected: object) -> None:
    leaves = zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True)
    for a, b in leaves:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_outputs_and_spikes_are_those_of_the_fast_run(
    kind: str, request: pytest.FixtureRequest
) -> None:
    snn, x = request.getfixturevalue(kind)
    run = simulate(snn, x, record="*", progress=False)
    _close(run.outputs, snn(x))
    assert torch.equal(run.fast_outputs, snn(x))
    with snn.count_spikes() as events:
        snn(x)
    assert run.flips.count == 0 and run.flips.spikes > 0
    for index, name in enumerate(snn.sites):
        found = run.events()
        assert (found["site"] == index).sum() == events[name] == len(run.events(name))
    assert run.counts["events"] * len(x) == pytest.approx(sum(events.values()))


@pytest.mark.parametrize("seed", [4, 9])
def test_random_networks(seed: int) -> None:
    snn = to_spiking(
        RandomNetwork(seed).eval(),
        images(seed, 12),
        steps=3,
        gates=seed % 2,
        method="binary",
        encode=seed % 3 == 0,
        normalisation=seed % 4 == 0,
        progress=False,
    ).double()
    x = images(seed + 1, 5).double()
    run = simulate(snn, x, progress=False)
    _close(run.outputs, snn(x))
    assert run.flips.count == 0
    assert run.latency == snn.report.latency_steps


def test_whole_numbers_are_exact() -> None:
    """Weights, T, h and d are small whole numbers, so float32 rounds nothing."""
    torch.manual_seed(1)
    model = Skipping().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((3 * parameter / parameter.abs().max()).round())
    x = torch.randint(-3, 4, (6, 2, 8, 8)).float()
    snn = to_spiking(model, x, steps=4, method="binary", progress=False)
    for name, neuron in snn.sites.items():
        powers = torch.tensor([8.0, 4.0, 2.0, 1.0])
        neuron.thresholds.copy_(powers - float(name == "relu"))
        neuron.resets.copy_(powers)
        neuron.weights.copy_(torch.tensor([4.0, 2.0, 1.0, 1.0]))
    run = simulate(snn, x, progress=False)
    assert run.flips.count == 0
    # Means over windows are the only numbers that are not whole.
    torch.testing.assert_close(run.outputs, snn(x), rtol=1e-6, atol=1e-6)


def test_ticks_of_a_pipeline(gated: tuple[SpikingModel, Tensor]) -> None:
    snn, x = gated
    run = simulate(snn, x, progress=False)
    # Three sites behind each other, of four steps and one tick for the gates.
    assert run.latency == snn.report.latency_steps == 15
    assert run.interval == 5
    assert run.ticks.tolist() == [15 + 5 * i for i in range(len(x))]
    assert list(run.starts.values()) == [0, 5, 10]


def test_records(gated: tuple[SpikingModel, Tensor]) -> None:
    snn, x = gated
    names = list(snn.sites)
    inputs = _inputs(snn, x)
    run = simulate(snn, x, record=[names[0], names[2]], progress=False)
    assert list(run.spikes) == [names[0], names[2]]
    for name in run.spikes:
        neuron = snn.sites[name]
        assert torch.equal(run.recorded(name), neuron.spikes(inputs[name]))
        assert torch.equal(run.intervals[name].long(), neuron.interval(inputs[name]))
        membrane = run.membranes[name]
        before = membrane.potentials[membrane.ticks.index(membrane.begin + 1) - 1]
        torch.testing.assert_close(before, inputs[name])
        # After the last step lies what the resets left.
        resets = neuron.resets[run.intervals[name].long()].movedim(-1, 0)
        left = inputs[name] - (resets * run.spikes[name]).sum(0)
        torch.testing.assert_close(membrane.potentials[-1], left)
        assert list(membrane.ticks) == sorted(membrane.ticks)
        rate = run.spikes[name].flatten(1).double().mean(1)
        torch.testing.assert_close(run.rates[name], rate)
    with pytest.raises(SiteError, match="was not recorded"):
        run.recorded(names[1])


def test_events_tell_tick_image_neuron_and_interval(gated: tuple[SpikingModel, Tensor]) -> None:
    snn, x = gated
    (name,) = list(snn.sites)[1:2]
    run = simulate(snn, x, record=name, progress=False)
    events = run.events(name)
    assert (np.diff(events["tick"]) >= 0).all()
    spikes, tables = run.spikes[name].flatten(2), run.intervals[name].flatten(1)
    for event in events[:: len(events) // 50]:
        place = event["image"], event["neuron"]
        assert tables[place] == event["interval"]
        begin = run.starts[name] + 1 + run.interval * event["image"]
        assert event["tick"] == begin + event["step"]
        if event["step"]:
            assert spikes[(event["step"] - 1, *place)]
        else:
            assert snn.sites[name].offset[event["interval"]] != 0


def test_saved_records(plain: tuple[SpikingModel, Tensor], tmp_path: Path) -> None:
    snn, x = plain
    run = simulate(snn, x, record="*", progress=False)
    run.save(tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz") as file:
        assert np.array_equal(file["events"], run.events())
        assert list(file["sites"]) == list(run.spikes)
        for name, membrane in run.membranes.items():
            assert np.array_equal(file[f"membrane/{name}"], membrane.potentials.numpy())
    with pytest.raises(InputError, match=r"written as \.npz"):
        run.save(tmp_path / "run.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_images_lie_along_another_axis() -> None:
    torch.manual_seed(2)
    x = torch.randn(24, 5, 3)
    snn = to_spiking(RowsOfSteps().eval(), x, steps=3, method="binary", progress=False).double()
    (name,) = snn.sites
    together = simulate(snn, x.double(), record=name, progress=False)
    for i in (0, 11, 23):
        alone = simulate(snn, x[i : i + 1].double(), record=name, progress=False)
        rows = alone.spikes[name][:, 0]
        assert torch.equal(together.spikes[name][:, i].flatten(1).sum(1), rows.flatten(1).sum(1))
    assert together.spikes[name].shape[1] == 24


def test_other_steps_and_loaded_networks(
    plain: tuple[SpikingModel, Tensor], tmp_path: Path
) -> None:
    snn, x = plain
    with snn.with_steps(2):
        run = simulate(snn, x, record="*", progress=False)
        _close(run.outputs, snn(x))
    assert run.latency == 6 and all(len(spikes) == 2 for spikes in run.spikes.values())
    snn.save(tmp_path / "net.fsnn")
    loaded = simulate(load(tmp_path / "net.fsnn"), x, progress=False)
    _close(loaded.outputs, simulate(snn, x, progress=False).outputs)
    assert loaded.counts.to_dict() == simulate(snn, x, progress=False).counts.to_dict()


def test_sites_that_compute_exactly(plain: tuple[SpikingModel, Tensor]) -> None:
    snn, x = plain
    first = next(iter(snn.sites))
    with snn.spiking_only([first]):
        run = simulate(snn, x, progress=False)
        _close(run.outputs, snn(x))
    assert list(run.rates) == [first]


def test_flips_are_told() -> None:
    """An input within a rounding of a threshold: what is added up in another order decides."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU()).eval()
    x = torch.randn(50, 40)
    snn = to_spiking(model, x, steps=6, method="binary", progress=False)
    inputs = _inputs(snn, x)
    second = list(snn.sites)[1]
    neuron = snn.sites[second]
    # Just below values of the fast run: about half of the sums in another order fall below that.
    hit = inputs[second].flatten()
    found = 0
    for value in hit[hit > 0][:60]:
        with torch.no_grad():
            neuron.thresholds[0] = torch.nextafter(value, torch.zeros(()))
        flips = simulate(snn, x, progress=False).flips
        found += flips.count
        for site, ulps in flips.ulps.items():
            assert site == second and ulps < 64
            assert "differ from the fast run's" in str(flips)
        if found:
            break
    assert found


def test_bad_input(plain: tuple[SpikingModel, Tensor]) -> None:
    snn, x = plain
    with pytest.raises(SiteError, match=r"no site is called 'layer9\.\*'; there are e\.g\. relu"):
        simulate(snn, x, record="layer9.*", progress=False)
    with pytest.raises(InputError, match=r"records of 3 sites and 12 images take .* MiB"):
        simulate(snn, x, record="*", memory=1000, progress=False)
    with pytest.raises(InputError, match="whole neurons"), snn.readout(2):
        simulate(snn, x, progress=False)
    with pytest.raises(InputError, match="no image"):
        simulate(snn, x[:0], progress=False)
    with pytest.raises(InputError, match="takes a converted network, found a Skipping"):
        simulate(Skipping(), x, progress=False)  # type: ignore[arg-type]


def test_nan_stays_nan(gated: tuple[SpikingModel, Tensor]) -> None:
    snn, x = gated
    x = x[:3].clone()
    x[1, 0, 2, 2] = float("nan")
    run = simulate(snn, x, progress=False)
    assert bool(run.outputs[1].isnan().all()) and not bool(run.outputs[[0, 2]].isnan().any())
    assert isinstance(next(iter(snn.sites.values())), FewSpikesNeuron)


@pytest.mark.parametrize("length", [5, 20])
def test_operations_are_those_of_the_length_that_ran(length: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x, varying = torch.randn(4, 5, 8), {"input": {1: "T"}}
    snn = to_spiking(model, x, steps=4, method="binary", dynamic=varying, progress=False)
    given = torch.randn(2, length, 8)
    counts = simulate(snn, given, progress=False).counts
    expected = count_operations(snn, given, progress=False)
    assert counts.mean == pytest.approx(expected.mean)
    # The simulation counts all images together, and says nothing of how they vary.
    assert "vary" in str(expected) and "vary" not in str(counts)
    assert counts["dense_multiply_accumulates"] == length * (8 * 8 + 8 * 3)
