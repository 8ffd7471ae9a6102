"""Blocks that tell how often each value of a site sent an event."""

import copy
import threading
from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import InputError, SpikingModel, features, load, to_spiking
from convert.network import buffer_reuse
from convert.network.run_plan import RunPlan
from convert.neuron import fused
from convert.neuron.few_spikes import FewSpikesNeuron, NeuronPlan

_Tallies = dict[str, list[Tensor]]


class Residual(nn.Module):
    """A neuron reads a sum, one runs twice, and memory is reused."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.head = nn.SiLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        return self.head(self.act(F.relu(self.second(x) + x).mean((2, 3))))


@pytest.fixture(scope="module", params=[0, 2], ids=["one table", "gates"])
def snn(request: pytest.FixtureRequest) -> SpikingModel:
    torch.manual_seed(0)
    images = torch.randn(32, 2, 6, 6)
    return to_spiking(
        Residual().eval(),
        images,
        steps=(3, 5),
        gates=request.param,
        method="binary",
        progress=False,
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    """So many that a sum and a neuron take one pass over memory."""
    return torch.randn(256, 2, 6, 6, generator=torch.Generator().manual_seed(5))


@pytest.fixture(autouse=True)
def _compiled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "WORTH_COMPILING", 0)


def _expected(snn: SpikingModel, x: Tensor) -> _Tallies:
    """By the inputs that each site's neuron has inside the blocks around."""
    plan, found = snn.plan, defaultdict(list)
    neurons = dict(snn.sites)

    def watch(site: str, value: Tensor) -> None:
        neuron = neurons[site]
        steps = min(plan.readout or neuron.steps, neuron.steps)
        events = neuron.spikes(value)[:steps].sum(0)
        if neuron.gates is not None:
            constants = neuron.offset
            if plan.corrected and steps < neuron.steps:
                constants = constants + neuron.missing_mean[:, steps]
            events = events + (constants[neuron.interval(value)] != 0)
        found[site].append(torch.empty_like(value, dtype=torch.int64).copy_(events))

    with torch.no_grad(), snn.running(watchers=(watch,), tallies=(), counters=()):
        snn(x)
    return found


def _by_site() -> tuple[_Tallies, Any]:
    found: _Tallies = defaultdict(list)
    return found, lambda site, tally: found[site].append(tally)


def _same(found: _Tallies, expected: _Tallies) -> bool:
    return found.keys() == expected.keys() and all(
        len(found[site]) == len(expected[site])
        and all(
            torch.equal(a.long(), b.long())
            for a, b in zip(found[site], expected[site], strict=True)
        )
        for site in expected
    )


def _piles(snn: SpikingModel) -> list[list[AbstractContextManager[Any]]]:
    """Blocks, outermost first."""
    sites = list(snn.sites)
    return [
        [],
        [snn.readout(2)],
        [snn.readout(1, corrected=False)],
        [snn.with_steps(5)],
        [snn.spiking_only(sites[1:])],
        [snn.spiking_only([])],
        [snn.repeated()],
        [snn.count_outside()],
        [snn.with_steps(5), snn.readout(4), snn.repeated(), snn.spiking_only(sites[:2])],
    ]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("pile", range(9))
def test_every_nesting(
    snn: SpikingModel, images: Tensor, pile: int, inside: bool, gradients: bool
) -> None:
    given = images.clone().requires_grad_(gradients)
    found, tell = _by_site()
    again, tell_again = _by_site()
    blocks: list[AbstractContextManager[Any]] = [snn.tally_spikes(tell), *_piles(snn)[pile]]
    with ExitStack() as stack, torch.set_grad_enabled(gradients):
        for block in blocks if not inside else reversed(blocks):
            stack.enter_context(block)
        expected = _expected(snn, images)
        assert set(expected) == {site for site in snn.sites if snn.plan.spikes(site)}
        plain = snn(given)
        assert _same(found, expected)
        with snn.tally_spikes(tell_again), snn.count_spikes() as counts:
            assert torch.equal(snn(given), plain)
        assert _same(again, expected)
    assert _same(found, {site: 2 * tallies for site, tallies in expected.items()})
    for site, count in counts.items():
        assert count == sum(int(t.sum()) for t in again.get(site, []))
    assert snn.plan == RunPlan() and snn._blocks == 0
    snn(given)
    assert _same(again, expected)


@pytest.mark.parametrize("worth", [0, 10**18], ids=["code", "blocks"])
def test_the_fast_run_tells(
    snn: SpikingModel, images: Tensor, worth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that reuses memory runs, and has no tally in memory that it reuses."""
    monkeypatch.setattr(fused, "WORTH_COMPILING", worth)
    monkeypatch.setattr(fused, "_ready", set())
    used: list[int] = []
    original = buffer_reuse.Program.__call__

    def spy(self: Any, *args: Any) -> Any:
        used.append(1)
        return original(self, *args)

    found, tell = _by_site()
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(buffer_reuse.Program, "__call__", spy)
        expected = snn(images)
        with snn.tally_spikes(tell):
            assert torch.equal(snn(images), expected)
    assert used == [1, 1]
    assert _same(found, _expected(snn, images))
    assert {t.dtype for tallies in found.values() for t in tallies} == {torch.uint8}
    assert any(int(t.max()) > 1 for tallies in found.values() for t in tallies)


def test_channels_last(snn: SpikingModel, images: Tensor) -> None:
    last = images.to(memory_format=torch.channels_last)
    found, tell = _by_site()
    with torch.no_grad(), snn.tally_spikes(tell):
        snn(last)
    expected = _expected(snn, last)
    assert _same(found, expected)
    for site, tallies in found.items():
        assert [t.stride() for t in tallies] == [t.stride() for t in expected[site]]


def test_an_error_inside_leaves_nothing(snn: SpikingModel, images: Tensor) -> None:
    def told(site: str, tally: Tensor) -> None:
        raise ZeroDivisionError

    before = snn(images)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), snn.tally_spikes(told):
            snn(images)
    assert snn.plan == RunPlan() and snn._blocks == 0
    assert torch.equal(snn(images), before)


def test_threads_see_their_own_blocks_alone(snn: SpikingModel, images: Tensor) -> None:
    piles = [[], [snn.with_steps(5)], [snn.readout(1)]]
    expected = []
    for pile in ([], [snn.with_steps(5)], [snn.readout(1)]):
        with ExitStack() as stack:
            for block in pile:
                stack.enter_context(block)
            expected.append(_expected(snn, images))
    assert not _same(expected[0], expected[1]) and not _same(expected[0], expected[2])
    wrong: list[int] = []
    ready = threading.Barrier(len(piles))

    def work(number: int) -> None:
        ready.wait()
        with torch.no_grad(), ExitStack() as stack:
            for block in piles[number]:
                stack.enter_context(block)
            for _ in range(20):
                found, tell = _by_site()
                with snn.tally_spikes(tell):
                    snn(images)
                if not _same(found, expected[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(piles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and snn._blocks == 0


def test_neurons_by_themselves_and_parts(snn: SpikingModel, images: Tensor) -> None:
    name = next(iter(snn.sites))
    neuron, x = snn.sites[name], torch.linspace(-3, 3, 200)
    found, tell = _by_site()
    with snn.tally_spikes(tell):
        neuron(x)
        # A neuron of nobody's.
        FewSpikesNeuron([1.0], [1.0], [1.0])(x)
    assert list(found) == [name] and len(found[name]) == 1
    counted: list[int] = []
    with snn.running(counters=(lambda site, count: counted.append(count),)):
        neuron(x)
    assert int(found[name][0].sum()) == counted[0]

    part, (found, tell) = features(snn, ["head"]), _by_site()
    with torch.no_grad(), snn.tally_spikes(tell):
        part(images)
    assert _same(found, _expected(snn, images))


def test_hooks_run_and_copies_are_silent(snn: SpikingModel, images: Tensor, tmp_path: Any) -> None:
    name = next(iter(snn.sites))
    seen: list[Tensor] = []
    handle = snn.sites[name].register_forward_hook(lambda module, given, y: seen.append(y))
    found, tell = _by_site()
    with torch.no_grad(), snn.tally_spikes(tell):
        snn(images)
        assert len(seen) == 1 and _same(found, _expected(snn, images))
        handle.remove()
        calls = sum(map(len, found.values()))
        planned = snn.as_planned(snn.plan)
        snn.original()(images)
        snn.save(tmp_path / "within.fsnn")
    planned(images)
    assert sum(map(len, found.values())) == calls
    loaded, (found, tell) = load(tmp_path / "within.fsnn"), _by_site()
    assert loaded.plan == RunPlan()
    with torch.no_grad(), loaded.tally_spikes(tell):
        loaded(images)
    assert _same(found, _expected(snn, images))


@pytest.mark.filterwarnings("ignore")
def test_compiled_networks_tell(snn: SpikingModel) -> None:
    torch.compiler.reset()
    images = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(5))
    compiled = torch.compile(snn, backend="eager")
    found, tell = _by_site()
    with torch.no_grad():
        for _ in range(2):
            compiled(images)
            assert not found
            with snn.tally_spikes(tell), snn.count_spikes() as counts:
                compiled(images)
            told = {site: sum(int(t.sum()) for t in tallies) for site, tallies in found.items()}
            assert told == counts
            found.clear()


@pytest.mark.parametrize("wrong", [None, 3, {}])
def test_what_cannot_be_told(snn: SpikingModel, wrong: Any) -> None:
    with pytest.raises(InputError, match="tally_spikes takes a function") as raised:
        snn.tally_spikes(wrong).__enter__()
    assert "\n" not in str(raised.value) and snn.plan == RunPlan()


class Halved(FewSpikesNeuron):
    """A neuron of another class, which may forget to tell."""

    tells = True

    def decode(
        self, x: Tensor, addend: Tensor | None = None, *, plan: NeuronPlan | None = None
    ) -> Tensor:
        if plan is not None and plan.tally is not None and not self.tells:
            plan = replace(plan, tally=None)
        return 0.5 * super().decode(x, addend, plan=plan)


def test_neurons_of_another_class(snn: SpikingModel, images: Tensor) -> None:
    changed, name = copy.deepcopy(snn), next(iter(snn.sites))
    old = changed.sites[name]
    halved = Halved(old.thresholds, old.resets, old.weights, old.offset, old.gates)
    changed.network.set_submodule(changed.names[name], halved)
    found, tell = _by_site()
    with torch.no_grad(), changed.tally_spikes(tell):
        changed(images)
    assert _same(found, _expected(changed, images))
    halved.tells = False
    changed(images)
    refused = pytest.raises(InputError, match=f"site {name} runs a Halved")
    with refused as raised, changed.tally_spikes(tell):
        changed(images)
    assert "\n" not in str(raised.value)
