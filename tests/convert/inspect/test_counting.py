"""Operations counted in the fast run: those of the masks themselves, and an independent count."""

import pytest
import torch
from support.random_networks import RandomNetwork, images
from support.rows_of_steps import RowsOfSteps
from torch import Tensor, nn
from torch.nn import functional as F

from convert import SpikingModel, to_spiking
from convert.errors import InputError
from convert.inspect import count_operations, event_sums, simulate
from convert.inspect.event_sums import sums
from convert.inspect.operation_counts import QUANTITIES, OperationCounts


class Branches(nn.Module):
    """Borders, strides, groups, a dead channel, a skip, and a head behind a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 2, 3, stride=2)
        self.head = nn.Linear(2, 5)
        with torch.no_grad():
            self.down.weight[2] = 0
            self.down.weight[:, 1] = 0
            self.grouped.weight[0, 0, 1, 1] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.grouped(x) + x)
        x = torch.relu(self.down(x))
        x = torch.relu(self.up(x))
        return self.head(x.mean((2, 3)))


def _converted(gates: int = 0) -> tuple[SpikingModel, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(11, 2, 8, 8)
    model = Branches().eval()
    snn = to_spiking(model, x, steps=4, gates=gates, method="binary", progress=False)
    return snn.double(), x.double()


@pytest.fixture(scope="module", params=[0, 2])
def network(request: pytest.FixtureRequest) -> tuple[SpikingModel, Tensor]:
    return _converted(request.param)


def _same(found: OperationCounts, expected: OperationCounts) -> None:
    rows = zip(found.layers, expected.layers, strict=True)
    for a, b in rows:
        assert (a.name, a.op, a.inputs) == (b.name, b.op, b.inputs)
        for quantity in QUANTITIES:
            assert a[quantity] == pytest.approx(b[quantity], rel=1e-12), (a.name, quantity)
    for quantity in QUANTITIES:
        assert found[quantity] == pytest.approx(expected[quantity], rel=1e-12), quantity
    assert found.not_counted == expected.not_counted
    assert (found.neurons, found.weights) == (expected.neurons, expected.weights)


def test_equal_to_the_simulation(network: tuple[SpikingModel, Tensor]) -> None:
    snn, x = network
    run = simulate(snn, x, progress=False)
    assert run.flips.count == 0
    # Cut into batches of other sizes than the simulation's.
    _same(count_operations(snn, list(x.split(4)), progress=False), run.counts)


def test_an_independent_count(network: tuple[SpikingModel, Tensor]) -> None:
    """Masks convolved with ones in place of the weights that are there."""
    snn, x = network
    model = Branches()
    run = simulate(snn, x, record="*", progress=False)
    layers = {
        "grouped": (0, F.conv2d, {"padding": 1, "groups": 2}),
        "down": (1, F.conv2d, {"stride": 2, "padding": 1}),
        "up": (2, F.conv_transpose2d, {"stride": 2}),
    }
    counted = {layer.name: layer for layer in count_operations(snn, x, progress=False).layers}
    names = list(snn.sites)
    for name, (site, function, settings) in layers.items():
        weights = (snn.network.get_parameter(f"{name}.weight") != 0).double()
        events = run.recorded(names[site]).double().sum(0)
        neuron = snn.sites[names[site]]
        if neuron.gates is not None:
            said = neuron.offset != 0
            events = events + said[run.intervals[names[site]].long()]
        arrived = function(events, weights, None, **settings)  # type: ignore[operator]
        layer = counted[name]
        assert layer["accumulates"] * len(x) == pytest.approx(float(arrived.sum()), rel=1e-12)
        spread = arrived.flatten(1).sum(1).std(correction=0)
        assert layer.spread["accumulates"] == pytest.approx(float(spread), rel=1e-9)
        assert layer["weight_reads"] == layer["accumulates"]
        trains = neuron.steps * neuron.intervals
        if neuron.gates is not None:
            trains += int((neuron.offset != 0).sum())
        assert layer["scalings"] == trains * arrived[0].numel()
    assert counted["first"]["accumulates"] == 0
    assert counted["first"]["multiply_accumulates"] == 4 * 2 * 9 * 8 * 8
    assert counted["down"]["dense_multiply_accumulates"] == 6 * 4 * 9 * 4 * 4
    assert 0 < counted["down"]["active_multiply_accumulates"] < 6 * 4 * 9 * 4 * 4
    # Every event of the last site goes through the pooling to all five outputs.
    last = run.recorded(names[3]).double().flatten(1).sum()
    if snn.sites[names[3]].gates is None:
        assert counted["head"]["accumulates"] * len(x) == pytest.approx(5 * float(last))
    # Every event of the first site is added, without weights, where the skip ends.
    assert counted[names[1]]["additions"] == pytest.approx(counted[names[0]]["events"])
    assert isinstance(model, nn.Module)


@pytest.mark.parametrize("seed", [3, 8])
def test_random_networks(seed: int) -> None:
    snn = to_spiking(
        RandomNetwork(seed).eval(),
        images(seed, 12),
        steps=3,
        gates=seed % 2,
        method="binary",
        encode=True,
        progress=False,
    ).double()
    x = images(seed + 1, 5).double()
    run = simulate(snn, x, progress=False)
    _same(count_operations(snn, x, progress=False), run.counts)


def test_images_of_a_batch_along_another_axis() -> None:
    torch.manual_seed(2)
    x = torch.randn(9, 5, 3)
    snn = to_spiking(RowsOfSteps().eval(), x, steps=3, method="binary", progress=False)
    whole = count_operations(snn, x, progress=False)
    alone = [count_operations(snn, x[i : i + 1], progress=False) for i in range(9)]
    events = torch.tensor([counts["accumulates"] for counts in alone])
    assert whole["accumulates"] == pytest.approx(float(events.mean()))
    assert whole.spread["accumulates"] == pytest.approx(float(events.std(correction=0)), rel=1e-5)


def test_products_are_multiply_accumulates() -> None:
    torch.manual_seed(4)
    model = nn.MultiheadAttention(8, 2, batch_first=True)

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = model

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    x = torch.randn(6, 5, 8)
    snn = to_spiking(Attends().eval(), x, steps=3, method="binary", progress=False)
    counts = count_operations(snn, x, progress=False)
    products = [layer for layer in counts.layers if layer.op in ("matmul", "bmm")]
    assert [layer["multiply_accumulates"] for layer in products] == [2 * 5 * 5 * 4] * 2
    assert all(layer["weight_reads"] == 0 for layer in products)
    assert counts.not_counted == {"amax": 1}
    assert "Not counted: 1 amax" in str(counts)


def test_large_sums_are_exact() -> None:
    """Sums beyond 32 bits, of uint8 and int32."""
    torch.manual_seed(5)
    tally = torch.randint(0, 256, (3, 5000), dtype=torch.uint8)
    rows = torch.randint(0, 100_000, (2, 5000), dtype=torch.int32)
    for given in (tally, tally.to(torch.int32)):
        events, active = sums(given, rows)
        assert (events == (given.double() @ rows.double().t()).numpy()).all()
        assert (active == ((given > 0).double() @ rows.double().t()).numpy()).all()


def test_a_gpu_is_read_once_a_batch(
    network: tuple[SpikingModel, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    snn, x = network
    expected = count_operations(snn, [x, x[:3]], progress=False).to_dict()
    waits: dict[str, int] = {"add": 0, "read": 0}
    to_cpu = Tensor.cpu

    def watched(name: str) -> None:
        original = getattr(event_sums.Totals, name)

        def noted(tensor: Tensor) -> Tensor:
            waits[name] += 1
            return to_cpu(tensor)

        def run(*given: object) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(Tensor, "cpu", noted)
                original(*given)

        monkeypatch.setattr(event_sums.Totals, name, run)

    watched("add")
    watched("read")
    monkeypatch.setattr(event_sums, "apart", lambda _: True)
    monkeypatch.setattr(event_sums, "_add", None)
    assert count_operations(snn, [x, x[:3]], progress=False).to_dict() == expected
    assert waits == {"add": 0, "read": 2}


def test_to_dict_and_bad_input(network: tuple[SpikingModel, Tensor]) -> None:
    snn, x = network
    counts = count_operations(snn, x, progress=False).to_dict()
    assert set(counts["per_image"]) == set(map(str, QUANTITIES))
    assert {"name", "accumulates", "dense_multiply_accumulates"} <= set(counts["layers"][0])
    with pytest.raises(InputError, match="no image"):
        count_operations(snn, [], progress=False)
    with pytest.raises(InputError, match="whole neurons"), snn.readout(2):
        count_operations(snn, x, progress=False)
    with pytest.raises(InputError, match="found a Branches"):
        count_operations(Branches(), x, progress=False)  # type: ignore[arg-type]
