"""A model with converted parts: called, changed by blocks, copied, and asked for what it isn't."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.models_with_parts import Asking, converted, same
from torch import Tensor, nn

from convert import InputError, SiteError, audit, evaluate, features, pareto, refit, to_spiking
from convert.inspect import count_operations, simulate
from convert.parts.model import SpikingParts

PARTS = ["stem", "blocks.*"]
SITES = ["stem.1", "blocks.0.act", "blocks.0#2.act", "blocks.1.act"]


@pytest.fixture(scope="module")
def model() -> Asking:
    torch.manual_seed(0)
    model = Asking().eval()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data *= 2
    return model


@pytest.fixture(scope="module")
def data() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(16, 3) for _ in range(2)]


@pytest.fixture(scope="module")
def snn(model: Asking, data: list[Tensor]) -> SpikingParts:
    return converted(model, data, PARTS, steps=[8, 5])


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def test_it_is_the_model_with_spiking_parts(
    snn: SpikingParts, model: Asking, data: list[Tensor]
) -> None:
    x = data[0]
    error = (snn(x) - model(x)).norm() / model(x).norm()
    assert 0 < error < 0.2
    with snn.spiking_only(()):
        same(snn(x), model(x))
    assert list(snn.sites) == SITES
    assert type(snn.original()) is Asking
    same(snn.original()(x), model(x))


def test_attributes_and_methods_are_the_users(snn: SpikingParts, data: list[Tensor]) -> None:
    snn = copy.deepcopy(snn)
    assert torch.equal(snn.predict(data[0]), snn(data[0]).argmax(1))
    before = snn(data[0])
    snn.most = 0  # read by forward
    assert snn.module.most == 0 and not torch.equal(snn(data[0]), before)
    assert snn.blocks[0].layer.weight.shape == (8, 8)
    with pytest.raises(AttributeError, match="missing"):
        snn.missing  # noqa: B018


def test_the_users_model_stays_as_it_was(model: Asking, data: list[Tensor]) -> None:
    before = copy.deepcopy(model.state_dict())
    model.train()
    to_spiking(model, data, modules=["stem"], method="binary", progress=False)
    assert model.training and type(model.stem) is nn.Sequential
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()


def test_blocks_hold_for_all_parts(snn: SpikingParts, data: list[Tensor]) -> None:
    x = data[0]
    whole = snn(x)
    with snn.count_spikes() as spikes:
        assert torch.equal(snn(x), whole)
    assert list(spikes) == SITES and all(spikes.values())
    with snn.readout(3), snn.count_spikes() as fewer:
        early = snn(x)
    assert not torch.equal(early, whole) and sum(fewer.values()) < sum(spikes.values())
    with snn.with_steps(5):
        assert snn.steps == 5 and snn.sites["stem.1"].steps == 5
        other = snn(x)
        with snn.readout(5):
            assert torch.equal(snn(x), other)
    assert not torch.equal(other, whole) and torch.equal(snn(x), whole)
    with snn.spiking_only(["stem.1"]), snn.count_spikes() as alone:
        snn(x)
    assert [site for site, count in alone.items() if count] == ["stem.1"]
    with snn.spiking_only(["stem.1"]), snn.spiking_only(["blocks.1.act"]):
        same(snn(x), snn.original()(x))
    told: dict[str, int] = {}
    with snn.tally_spikes(lambda site, t: told.update({site: told.get(site, 0) + int(t.sum())})):
        snn(x)
    assert told == spikes
    with snn.repeated():
        assert torch.equal(snn(x), snn(x)) and torch.equal(snn(x), whole)


def test_a_part_with_fewer_steps_is_whole_after_its_last(model: Asking, data: list[Tensor]) -> None:
    parts, own = ["stem", "blocks.1"], {"stem.*": 2, "blocks.1.*": 8}
    snn = converted(model, data, parts, steps=6, per_site_steps=own, gates=1)
    assert [(row.steps, row.gates) for row in snn.report.sites] == [(2, 1), (8, 1)]
    assert snn.longest == 8 and snn.report.settings is not None
    assert snn.report.settings.modules == ("stem", "blocks.1")
    with snn.readout(8):
        found = snn(data[0])
    assert torch.equal(found, snn(data[0]))
    with snn.readout(1):
        assert not torch.equal(snn(data[0]), found)
    with pytest.raises(SiteError, match=r"no site matches 'stem.2'; there are e.g. stem.1"):
        converted(model, data, ["stem"], per_site_steps={"stem.2": 3})


def test_steps_are_chosen_for_each_part(model: Asking, data: list[Tensor]) -> None:
    snn = converted(model, data, ["stem", "blocks.1.act"], steps="auto", max_loss=0.01)
    assert snn.steps == snn.longest == max(row.steps for row in snn.report.sites) > 1
    with pytest.raises(InputError, match="budget= is divided among the sites of one graph"):
        converted(model, data, PARTS, steps="auto", budget=20)


def test_copies_and_pickle(snn: SpikingParts, data: list[Tensor]) -> None:
    for again in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert torch.equal(again(data[0]), snn(data[0]))
        assert str(again.report) == str(snn.report) and list(again.sites) == SITES
        with again.with_steps(5):
            assert again.steps == 5 and snn.steps == 8
        assert {t.data_ptr() for t in again.parameters()}.isdisjoint(
            t.data_ptr() for t in snn.parameters()
        )


def test_state_types_and_modes(snn: SpikingParts, data: list[Tensor]) -> None:
    other = copy.deepcopy(snn)
    for parameter in other.parameters():
        parameter.zero_()
    other.load_state_dict(snn.state_dict())
    assert torch.equal(other(data[0]), snn(data[0]))
    double = copy.deepcopy(snn).double()
    same(double(data[0].double()).float(), snn(data[0]))
    assert other.train().module.training and not other.eval().module.training
    assert not any(p.requires_grad for p in snn.parameters())
    learning = {n for n, p in other.unfreeze().named_parameters() if p.requires_grad}
    assert "module.head.weight" in learning and not any("replaced" in name for name in learning)
    assert any("networks" in name for name in learning)


def test_one_report(snn: SpikingParts, data: list[Tensor]) -> None:
    report = snn.report.to_dict()
    assert [site["name"] for site in report["sites"]] == SITES
    assert [row["name"] for row in report["parts"]] == [
        "stem",
        "blocks.0",
        "blocks.0#2",
        "blocks.1",
    ]
    assert report["python"] == {"head": "Linear"}
    assert report["calibration_images"] == 32
    rounds = report["parts"][1]["per_image"]
    assert 1 <= rounds <= 2 and report["sites"][1]["neurons"] == round(8 * rounds)
    text = str(snn.report)
    assert "stays Python: forward of the model, head (Linear)" in text and "blocks.0#2.act" in text


def test_it_is_evaluated_as_a_whole(snn: SpikingParts, model: Asking, data: list[Tensor]) -> None:
    labels = model(data[0]).argmax(1)
    result = evaluate(snn, model, [(data[0], labels)], progress=False)
    assert result.original.accuracy == 1.0 and result.images == 16
    assert [row.step for row in result.by_step] == list(range(1, 9))
    assert [row.steps for row in result.by_K] == [5]
    assert [row.name for row in result.by_site] == SITES
    with snn.count_spikes() as spikes:
        snn(data[0])
    assert result.spiking.spikes_per_image == pytest.approx(sum(spikes.values()) / 16)
    own = evaluate(snn, None, data, metric="output", by_site=0, progress=False)
    assert 0 < own.spiking.measures["relative_error"] < 0.2


def test_refit_and_pareto(snn: SpikingParts, data: list[Tensor]) -> None:
    finer = refit(snn, steps=12, per_site_steps={"stem.1": 10}, progress=False)
    assert isinstance(finer, SpikingParts) and finer.longest == 12
    assert finer.sites["stem.1"].steps == 10 and snn.sites["stem.1"].steps == 8
    assert finer.report.parts[1].per_image == snn.report.parts[1].per_image
    exact = snn.original()(data[0])
    again = refit(snn, [2 * x for x in data], steps=10, progress=False)
    assert isinstance(again, SpikingParts)
    assert again.report.sites[0].high > 1.5 * snn.report.sites[0].high
    assert (finer(data[0]) - exact).norm() < (snn(data[0]) - exact).norm()
    curve = pareto(snn, data, spike_costs=[0.0], steps=[2, 8], metric="output", progress=False)
    few, many = curve.to_dict()["points"]
    assert few["spikes_per_neuron"] < many["spikes_per_neuron"]


@pytest.mark.parametrize(
    "call",
    [
        lambda snn, x: audit(snn, x),
        lambda snn, x: simulate(snn, x),
        lambda snn, x: count_operations(snn, [x]),
        lambda snn, x: features(snn, ["stem"]),
        lambda snn, x: snn.export("net.onnx"),
    ],
    ids=["audit", "simulate", "count_operations", "features", "export"],
)
def test_what_needs_one_graph_is_refused_with_the_way_round(
    snn: SpikingParts, data: list[Tensor], call: Callable[[Any, Tensor], Any]
) -> None:
    with pytest.raises(InputError, match=r"give a part, snn\.parts\['stem'\]"):
        call(snn, data[0])


def test_a_part_and_its_calls_do_what_needs_one_graph(
    snn: SpikingParts, data: list[Tensor]
) -> None:
    calls = snn.calls_of("blocks.0#2", data)
    counts = count_operations(snn.parts["blocks.0#2"], calls).to_dict()
    assert counts["per_image"]["events"] > 0
    assert audit(snn.parts["stem"], data[0]).to_dict()
    with pytest.raises(InputError, match=r"no part is called 'steam'; there are e.g. stem"):
        snn.calls_of("steam", data)


def test_another_form_and_another_shape_are_refused(snn: SpikingParts) -> None:
    part = snn.module.blocks[1]
    with pytest.raises(InputError, match=r"blocks.1 is called in another form .* mask is a tensor"):
        part(torch.ones(2, 8), torch.ones(2, 8))
    with pytest.raises(InputError, match=r"blocks.1: it gets x \[2, 7\], .* dynamic="):
        part(torch.ones(2, 7))
    assert part(torch.ones(0, 8)).shape == (0, 8)
