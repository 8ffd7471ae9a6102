"""Recurrent networks from end to end: accuracy, one neuron a gate, and everything that counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convert import SpikingModel, evaluate, features, load, refit, to_spiking
from convert.assembly.calibrated import Calibrated
from convert.assembly.spike_prices import SpikePrices
from convert.calibration.observe import calibrate
from convert.capture.capture import capture
from convert.errors import InputError
from convert.inspect import audit, correlate, count_operations, simulate
from convert.sites.prepare import Preparation, prepare

_LENGTH = 10
# A site of each gate and direction.
_GATES = {nn.LSTM: 10, nn.GRU: 6}


class Reader(nn.Module):
    """Layers that read a sequence both ways, and a head on the mean over time."""

    def __init__(self, kind: Any, hidden: int, layers: int = 2) -> None:
        super().__init__()
        self.rnn = kind(4, hidden, layers, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))


def _which_came_first(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two marks, each on one of two channels, in noise: which was the first, and the second?"""
    drawn = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(images, _LENGTH, 4, generator=drawn)
    places = torch.rand(images, _LENGTH, generator=drawn).topk(2).indices.sort().values
    marks = torch.randint(0, 2, (images, 2), generator=drawn)
    for mark in range(2):
        x[torch.arange(images), places[:, mark], marks[:, mark]] += 2.0
    return x, 2 * marks[:, 0] + marks[:, 1]


@pytest.mark.parametrize("kind", (nn.LSTM, nn.GRU))
def test_a_trained_network_keeps_its_accuracy(kind: Any) -> None:
    torch.manual_seed(0)
    model = Reader(kind, 12, 1)
    x, y = _which_came_first(1024, 1)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(12):
        for i in range(0, len(x), 64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[i : i + 64]), y[i : i + 64]).backward()
            optimiser.step()
    model.eval()
    snn = to_spiking(model, x[:256], steps=8, progress=False)
    assert len(snn.sites) == _GATES[kind]
    result = evaluate(snn, model, [_which_came_first(600, 2)], by_site=0, progress=False)
    original, spiking = result.original["accuracy"], result.spiking["accuracy"]
    assert original > 0.95
    assert spiking >= original - 0.01
    assert result.spiking["agreement"] >= 0.98


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(3)
    return Reader(nn.LSTM, 5).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(24, 4, 4, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def snn(model: nn.Module, x: Tensor) -> SpikingModel:
    return to_spiking(model, x, steps=6, method="binary", progress=False)


def test_one_neuron_a_gate_layer_and_direction(snn: SpikingModel, x: Tensor) -> None:
    rows = snn.report.sites
    assert len(rows) == 20 and len(set(snn.names.values())) == 20
    assert {row.neurons for row in rows} == {5} and {row.calls for row in rows} == {4}
    # Two sites a time step in each of the two layers, one after the other.
    assert snn.report.latency_steps == 2 * 4 * 2 * 6
    row = next(row for row in rows if row.name == "rnn.layer1.reverse.cell_tanh")
    assert snn.histograms[row.name].total == 24 * 5 * 4
    text = str(snn.report)
    assert "calls: how often a neuron works for one image" in text
    products = {row["op"]: row["count"] for row in snn.report.to_dict()["products"]}
    assert set(products) == {"mul"}


def test_spikes_are_those_of_all_time_steps(snn: SpikingModel, x: Tensor) -> None:
    with snn.count_spikes() as counted:
        snn(x)
    spikes = sum(counted.values()) / len(x)
    found = evaluate(snn, snn.original(), [x], by_site=0, progress=False, metric="output")
    assert found.to_dict()["spiking"]["spikes_per_image"] == pytest.approx(spikes)
    assert found.to_dict()["spiking"]["neurons"] == 100
    expected = snn.report.expected_events
    assert expected == pytest.approx(spikes / 100, rel=0.1)


def test_a_layer_of_all_time_steps_keeps_its_one_bias(snn: SpikingModel, model: nn.Module) -> None:
    assert any(note.startswith("biases inside rnn stay as trained") for note in snn.report.notes)
    assert set(snn.corrections.upstream) == {
        "rnn.bias_ih_l1",
        "rnn.bias_ih_l1_reverse",
        "head.bias",
    }
    held = dict(snn.network.named_parameters())
    for name, weight in model.named_parameters():
        if "_hh_" in name or "_l0" in name:
            assert torch.equal(held[name], weight)
    assert not any(name.startswith("bias_") for name in held)


def test_simulation_and_counts_agree(snn: SpikingModel, x: Tensor) -> None:
    run = simulate(snn, x[:6], progress=False)
    counts = count_operations(snn, x[:6], progress=False)
    assert run.flips.count == 0
    torch.testing.assert_close(run.outputs, snn(x[:6]))
    assert run.latency == snn.report.latency_steps
    # A neuron is busy from the first time step to the last.
    assert run.interval == 3 * 2 * 6 + 6
    simulated, counted = run.counts.to_dict(), counts.to_dict()
    for quantity, number in counted["per_image"].items():
        assert simulated["per_image"][quantity] == pytest.approx(number), quantity
    assert counts.neurons == run.counts.neurons == 100
    weights = sum(p.numel() for p in snn.network.parameters() if p.dim() == 2)
    assert counts.weights == run.counts.weights == weights
    neurons = [row.name for row in counts.layers if row.op == "neurons"]
    assert neurons == list(snn.sites)
    with snn.count_spikes() as spikes:
        snn(x[:6])
    by_site = {row.name: row["events"] * 6 for row in counts.layers if row.op == "neurons"}
    assert by_site == pytest.approx(spikes)
    with pytest.raises(InputError, match=r"layer0.forward.input_gate works at 4 time steps"):
        simulate(snn, x, record="rnn.*", progress=False)


def test_audit_and_correlation(snn: SpikingModel, model: nn.Module, x: Tensor) -> None:
    found = audit(snn, x)
    assert found.neurons == 80 and "agrees with the report" in str(found)
    rows = {row.name: row for row in correlate(snn, model, x, progress=False).sites}
    assert list(rows) == list(snn.sites)
    assert all(name not in row.before for name, row in rows.items())
    assert "rnn.layer0.forward.cell_tanh" in rows["rnn.layer0.forward.input_gate"].before


def test_every_site_is_evaluated_alone(snn: SpikingModel, model: nn.Module, x: Tensor) -> None:
    result = evaluate(snn, model, [x], by_site=24, metric="output", progress=False)
    assert [row["name"] for row in result.to_dict()["by_site"]] == list(snn.sites)


def test_files_hold_one_neuron_for_all_time_steps(
    snn: SpikingModel, x: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "net.fsnn"
    snn.save(path)
    loaded = load(path)
    assert torch.equal(loaded(x), snn(x))
    assert loaded.report.to_dict() == snn.report.to_dict()
    again = refit(loaded, x, steps=6, method="binary", progress=False)
    assert torch.equal(again(x), snn(x))
    assert again.report.to_dict()["sites"] == snn.report.to_dict()["sites"]
    assert again.report.notes == snn.report.notes
    other = refit(loaded, steps=3, method="binary", progress=False)
    assert {row.calls for row in other.report.sites} == {4}


def test_values_of_every_time_step(snn: SpikingModel, x: Tensor) -> None:
    name = "rnn.layer0.forward.output_gate"
    found = features(snn, [name, f"{name}@3", "rnn"])(x)
    assert [tuple(v.shape) for v in found.values()] == [(24, 5), (24, 5), (24, 4, 10)]
    assert not torch.equal(found[name], found[f"{name}@3"])


@pytest.mark.parametrize(("kind", "encoded"), ((nn.LSTM, 2), (nn.GRU, 3), (nn.RNN, 0)))
def test_identity_neurons_are_shared_too(kind: Any, encoded: int, x: Tensor) -> None:
    torch.manual_seed(5)
    coded = to_spiking(
        Reader(kind, 3).eval(), x, steps=6, method="binary", encode=True, progress=False
    )
    names = [row.name for row in coded.report.sites if row.function == "identity"]
    shared = [name for name in names if name.endswith(".encode")]
    assert len(shared) == 4 * encoded
    assert {row.calls for row in coded.report.sites if row.name in shared} <= {3}
    # And the sequence between the layers, as one tensor, where it is no spikes.
    assert len(names) - len(shared) == (2 if encoded else 0)
    products = coded.report.to_dict()["products"]
    assert all(set(row["operands"]) == {"spikes"} for row in products)


def test_modules_that_are_called_twice_stay_two_sites() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act = nn.Linear(4, 4), nn.Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.a(self.act(self.a(x))))

    plain = to_spiking(Twice().eval(), torch.randn(16, 4), steps=4, method="binary", progress=False)
    assert list(plain.sites) == ["act", "act_1"]
    assert plain.sites["act"] is not plain.sites["act_1"]
    assert {row.calls for row in plain.report.sites} == {1}
    assert "calls" not in str(plain.report).splitlines()[0]


def test_prices_count_every_time_step(x: Tensor) -> None:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.RNN(6, 5, batch_first=True)).eval()
    captured = capture(model, x)
    sites = prepare(Preparation(captured, []))
    observed = calibrate(captured, sites, [x])
    source = Calibrated(captured, sites, observed, {}, {site.name: 0 for site in sites}, None)
    prices = SpikePrices(source, 0.01)
    assert observed.neurons == {"1": 4 * 6, "2.layer0.forward.hidden": 5}
    assert [prices.share(site) for site in sites] == [24 / 29, 4 * 5 / 29]
