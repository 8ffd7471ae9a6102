"""K of every site, chosen by what the site does to the outputs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import CalibrationError, InputError, SpikingModel, load, refit, to_spiking
from convert.assembly.calibrated import Size
from convert.assembly.steps_per_site import Option, _hull, _path


class Uneven(nn.Module):
    """Two branches, of which the outputs hear one a hundred times more."""

    def __init__(self) -> None:
        super().__init__()
        self.loud, self.soft, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.loud(x)) + 0.01 * F.relu(self.soft(x)))


@pytest.fixture(scope="module")
def uneven() -> nn.Module:
    torch.manual_seed(0)
    return Uneven().eval()


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(256, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def eight(uneven: nn.Module, inputs: Tensor) -> SpikingModel:
    """Of eight steps in all; not to be changed."""
    return convert(uneven, inputs, budget=8)


def convert(model: nn.Module, x: Tensor, **settings) -> SpikingModel:
    return to_spiking(model, x, steps="auto", method="binary", progress=False, **settings)


def loss(snn: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((snn(x) - model(x)).square().sum() / model(x).square().sum())


def test_steps_go_where_they_matter(uneven: nn.Module, inputs: Tensor, eight: SpikingModel) -> None:
    steps = {row.name: row.steps for row in eight.report.sites}
    assert sum(steps.values()) <= 8 and steps["relu"] >= steps["relu_1"] + 3
    even = to_spiking(uneven, inputs, steps=4, method="binary", progress=False)
    assert loss(eight, uneven, inputs) < loss(even, uneven, inputs)
    assert any(note.startswith("steps per site: 8 in total") for note in eight.report.notes)
    assert eight.steps == eight.fitted_as == max(steps.values())
    assert eight.report.to_dict()["settings"]["budget"] == 8


def test_the_loss_is_kept_to(uneven: nn.Module, inputs: Tensor) -> None:
    totals = []
    for settings, most in (({"max_loss": 0.05}, 0.05), ({}, 0.005), ({"max_loss": 0.001}, 0.001)):
        snn = convert(uneven, inputs, **settings)
        assert loss(snn, uneven, inputs) <= most
        assert any(f"max_loss {most:g}: " in note for note in snn.report.notes)
        totals.append(sum(row.steps for row in snn.report.sites))
    assert totals == sorted(totals) and totals[0] < totals[2]


def test_sites_with_steps_of_their_own_keep_them(uneven: nn.Module, inputs: Tensor) -> None:
    snn = convert(uneven, inputs, budget=10, per_site_steps={"*_1": 3})
    assert {r.name: r.steps for r in snn.report.sites} == {"relu": 7, "relu_1": 3}


def test_a_loss_out_of_reach_is_said(uneven: nn.Module, inputs: Tensor) -> None:
    snn = convert(uneven, inputs, max_loss=1e-15)
    assert any("which more steps don't reach" in note for note in snn.report.notes)


def test_refit_chooses_too(eight: SpikingModel, inputs: Tensor, tmp_path: Path) -> None:
    eight.save(tmp_path / "net.fsnn")
    back = load(tmp_path / "net.fsnn")
    with torch.no_grad():
        assert torch.equal(back(inputs), eight(inputs))
    again = refit(back, budget=12, progress=False)
    assert 8 < sum(row.steps for row in again.report.sites) <= 12
    assert sum(note.startswith("steps per site") for note in again.report.notes) == 1
    with pytest.raises(CalibrationError, match="budget"):
        refit(back, max_loss=0.01, progress=False)


def test_a_budget_for_less_than_a_step_a_site(uneven: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(InputError, match=r"budget=4 is less than the 6 steps that 2 sites need"):
        convert(uneven, inputs, budget=4, per_site_steps={"relu": 5})


def _options(effects: dict[Size, float]) -> dict[Size, Option]:
    return {size: Option(float(size.latency), effect) for size, effect in effects.items()}


def test_the_hull_leaves_out_what_does_not_pay() -> None:
    # From 2 on, 3 is no better and 4 is steeper.
    one, two, three, four, five, six = map(Size, range(1, 7))
    effects = {one: 10.0, two: 9.0, three: 9.0, four: 1.0, five: 0.5, six: 0.6}
    assert _hull(_options(effects)) == [one, four, five]
    a, b = {one: 10.0, two: 1.0}, {one: 8.0, two: 4.0, three: 3.5}
    path = _path({"a": _options(a), "b": _options(b)})
    assert path == [
        {"a": one, "b": one},
        {"a": two, "b": one},
        {"a": two, "b": two},
        {"a": two, "b": three},
    ]
    # Gates take a time step: two of them and K = 2 compete with K = 3.
    gated = Size(2, 1)
    assert gated.latency == 3 and Size(3).latency == 3
    effects = {one: 10.0, two: 6.0, three: 4.0, gated: 1.0}
    assert _hull(_options(effects)) == [one, gated]


def test_more_steps_may_spend_fewer_events() -> None:
    one, two, three, four = map(Size, range(1, 5))
    options = {
        one: Option(0.5, 4.0),
        two: Option(0.4, 3.0),  # less of both
        three: Option(0.4, 1.0),
        four: Option(0.7, 0.5),
    }
    assert _hull(options) == [three, four]
    assert _path({"a": options})[0] == {"a": three}


@pytest.fixture(scope="module")
def priced(uneven: nn.Module, inputs: Tensor) -> SpikingModel:
    """Chosen for few events; not to be changed."""
    return to_spiking(uneven, inputs, steps="auto", max_loss=0.01, spike_cost=0.002, progress=False)


def test_the_fewest_events_for_a_loss(
    uneven: nn.Module, inputs: Tensor, priced: SpikingModel
) -> None:
    assert loss(priced, uneven, inputs) <= 0.01
    note = next(n for n in priced.report.notes if n.startswith("steps per site"))
    assert note.endswith(f"{priced.report.expected_events:.3f} events per neuron)")
    plain = to_spiking(uneven, inputs, steps="auto", max_loss=0.01, progress=False)
    assert priced.report.expected_events < 0.9 * plain.report.expected_events
    events = {row.name: row.events for row in priced.report.sites}
    # What the outputs hardly hear isn't worth events.
    assert events["relu_1"] < 0.1 < events["relu"]


def test_a_budget_of_events_is_kept(inputs: Tensor, priced: SpikingModel) -> None:
    found = refit(priced, budget_spikes=0.2, progress=False)
    with torch.no_grad(), found.count_spikes() as spikes:
        found(inputs)
    assert sum(spikes.values()) / (16 * len(inputs)) <= 0.2
    assert found.report.expected_events == pytest.approx(sum(spikes.values()) / 4096, abs=2e-3)
    more = refit(priced, budget_spikes=0.3, progress=False)
    assert 0.2 < more.report.expected_events <= 0.3
    with pytest.raises(InputError, match=r"budget_spikes=1e-09 is less than the .* events"):
        refit(priced, budget_spikes=1e-9, spike_cost=0.0, progress=False)
