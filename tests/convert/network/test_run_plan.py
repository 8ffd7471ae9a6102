"""Blocks nest in any order, hold for their thread alone, and leave nothing behind."""

import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from convert import InputError, SpikingModel, features, load, to_spiking
from convert.network.run_plan import RunPlan
from convert.neuron.few_spikes import FewSpikesNeuron


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(F.silu(self.second(x) + x).mean((2, 3)))


@pytest.fixture(scope="module")
def snn() -> SpikingModel:
    torch.manual_seed(0)
    images = torch.randn(32, 2, 6, 6)
    return to_spiking(
        Residual().eval(),
        images,
        steps=(3, 5),
        method="binary",
        per_site_steps={"relu": 5},
        progress=False,
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(5))


@dataclass(frozen=True)
class Means:
    """What a pile of blocks comes to, worked out by hand."""

    fit: int = 3
    readout: int | None = None
    corrected: bool = True
    spiking: tuple[str, ...] = ("relu", "silu")


Block = Callable[[SpikingModel], AbstractContextManager[Any]]
_BLOCKS: dict[str, tuple[Block, dict[str, Any]]] = {
    "count_spikes": (lambda s: s.count_spikes(), {}),
    "readout(2)": (lambda s: s.readout(2), {"readout": 2, "corrected": True}),
    "readout(1, raw)": (
        lambda s: s.readout(1, corrected=False),
        {"readout": 1, "corrected": False},
    ),
    "with_steps(5)": (lambda s: s.with_steps(5), {"fit": 5}),
    "with_steps(3)": (lambda s: s.with_steps(3), {"fit": 3}),
    "spiking_only(silu)": (lambda s: s.spiking_only(["silu"]), {"spiking": ("silu",)}),
    "spiking_only(relu)": (lambda s: s.spiking_only(["relu"]), {"spiking": ("relu",)}),
    "repeated": (lambda s: s.repeated(), {}),
    "count_outside": (lambda s: s.count_outside(), {}),
}


def _meaning(names: tuple[str, ...]) -> Means:
    """Inner blocks win, but a site spikes only where every block lets it."""
    values: dict[str, Any] = {}
    spiking = ("relu", "silu")
    for name in names:
        given = dict(_BLOCKS[name][1])
        allowed = given.pop("spiking", spiking)
        spiking = tuple(site for site in spiking if site in allowed)
        values |= given
    return Means(**values, spiking=spiking)


def _by_hand(snn: SpikingModel, x: Tensor, means: Means) -> tuple[Tensor, dict[str, int]]:
    """Output and spikes out of the network's parts alone."""
    neurons = {
        name: snn.network.get_submodule(path) if means.fit == 3 else snn.refitted["5"][path[6:]]
        for name, path in snn.names.items()
    }
    counted: dict[str, int] = dict.fromkeys(snn.names, 0)

    def site(name: str, value: Tensor) -> Tensor:
        if name not in means.spiking:
            return snn.exact[snn.names[name][6:]](value)
        neuron: FewSpikesNeuron = neurons[name]
        steps = min(means.readout or neuron.steps, neuron.steps)
        trains = neuron.spikes(value)[:steps]
        counted[name] += int(trains.sum())
        y = torch.zeros_like(value) + neuron.offset
        if means.corrected and steps < neuron.steps:
            y = torch.zeros_like(value) + (neuron.offset + neuron.missing_mean[steps])
        for t in range(steps):
            y = y + neuron.weights[t] * trains[t].to(value.dtype)
        return y

    def bias(path: str) -> Tensor:
        corrections, own = snn.corrections, snn.network.get_parameter(path)
        if path not in corrections.upstream:
            return own
        before = corrections.original(snn.network, path)
        shifted = corrections.upstream[path] <= set(means.spiking)
        key = str(means.fit)
        return (
            before + corrections._shift(key, path)
            if shifted and key in corrections.shifts
            else before
        )

    weight = snn.network.get_parameter
    x = x.contiguous(memory_format=torch.channels_last) if snn.signature.channels_last else x
    x = site("relu", F.conv2d(x, weight("first.weight"), bias("first.bias"), padding=1))
    y = F.conv2d(x, weight("second.weight"), bias("second.bias"), padding=1) + x
    y = site("silu", y).mean((2, 3))
    return F.linear(y, weight("head.weight"), bias("head.bias")), counted


def _nested(snn: SpikingModel, names: tuple[str, ...], stack: ExitStack) -> dict[int, Any]:
    """Enters the blocks, the first outermost; what each yields."""
    return {i: stack.enter_context(_BLOCKS[name][0](snn)) for i, name in enumerate(names)}


_PAIRS = [(a, b) for a in _BLOCKS for b in _BLOCKS]
_DEEP = (
    "readout(2)", "with_steps(5)", "count_spikes", "spiking_only(silu)", "repeated", "count_spikes",
)  # fmt: skip


@pytest.mark.parametrize("names", [*_PAIRS, *[(a,) for a in _BLOCKS], _DEEP], ids=" > ".join)
@pytest.mark.parametrize("gradients", [False, True])
def test_every_nesting(
    snn: SpikingModel, images: Tensor, names: tuple[str, ...], gradients: bool
) -> None:
    expected, spikes = _by_hand(snn, images, _meaning(names))
    given = images.clone().requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        with ExitStack() as stack:
            yielded = _nested(snn, names, stack)
            assert torch.equal(snn(given).detach(), expected)
            assert torch.equal(snn(given).detach(), expected)
        for index, name in enumerate(names):
            if name == "count_spikes":
                assert yielded[index] == {site: 2 * n for site, n in spikes.items()}
        assert torch.equal(snn(given).detach(), _by_hand(snn, images, Means())[0])
    assert snn.plan == RunPlan()


def test_an_error_inside_leaves_nothing(snn: SpikingModel, images: Tensor) -> None:
    before, _ = _by_hand(snn, images, Means())
    for names in _PAIRS:
        with pytest.raises(ZeroDivisionError), ExitStack() as stack:
            _nested(snn, names, stack)
            snn(images)
            raise ZeroDivisionError
    assert snn.plan == RunPlan() and snn._blocks == 0
    with torch.no_grad():
        assert torch.equal(snn(images), before)


def test_threads_see_their_own_blocks_alone(snn: SpikingModel, images: Tensor) -> None:
    piles = [
        ("with_steps(5)", "count_spikes"),
        ("readout(1, raw)", "count_spikes"),
        ("spiking_only(silu)", "readout(2)", "count_spikes"),
        ("count_spikes",),
    ]
    wrong: list[str] = []
    ready = threading.Barrier(len(piles) + 1)
    neuron, values = snn.sites["silu"], torch.linspace(-3, 3, 500)
    bare = neuron(values)

    def work(names: tuple[str, ...]) -> None:
        expected, spikes = _by_hand(snn, images, _meaning(names))
        ready.wait()
        for _ in range(100):
            with torch.no_grad(), ExitStack() as stack:
                yielded = _nested(snn, names, stack)
                if not torch.equal(snn(images), expected):
                    wrong.append("output of " + " > ".join(names))
            if yielded[len(names) - 1] != spikes:
                wrong.append("spikes of " + " > ".join(names))

    def call_bare() -> None:
        ready.wait()
        for _ in range(400):
            if not torch.equal(neuron(values), bare):
                wrong.append("bare neuron")

    threads = [threading.Thread(target=work, args=(names,)) for names in piles]
    threads.append(threading.Thread(target=call_bare))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert snn._blocks == 0
    with torch.no_grad():
        assert torch.equal(snn(images), _by_hand(snn, images, Means())[0])


def test_k_is_what_it_was_fitted_as(snn: SpikingModel, images: Tensor, tmp_path: Any) -> None:
    # A site has five steps in both.
    assert snn.steps == 3 and snn.longest == 5
    with snn.with_steps(5):
        assert snn.steps == 5
        assert {n.steps for n in snn.sites.values()} == {5}
        snn.save(tmp_path / "within.fsnn")
        with snn.with_steps(3):
            assert [n.steps for n in snn.sites.values()] == [5, 3]
    loaded = load(tmp_path / "within.fsnn")
    assert loaded.steps == 3 and list(loaded.refitted) == ["5"]
    with torch.no_grad():
        assert torch.equal(loaded(images), snn(images))
        with loaded.with_steps(5), snn.with_steps(5):
            assert torch.equal(loaded(images), snn(images))
    for wrong in (4, "5", 5.0, True, None):
        with pytest.raises(InputError, match="fitted for K = 3, 5"), snn.with_steps(wrong):
            pass


@pytest.mark.parametrize("step", [0, 6, 100, -1, 2.5, "abc", True])
def test_a_readout_that_no_neuron_has(snn: SpikingModel, step: Any) -> None:
    with pytest.raises(InputError, match=r"step must be a whole number from 1 to 5"):
        snn.readout(step).__enter__()


def test_a_readout_beyond_the_neurons_that_run(images: Tensor) -> None:
    torch.manual_seed(0)
    snn = to_spiking(Residual().eval(), images, steps=(2, 4), method="binary", progress=False)
    with snn.readout(3):
        with pytest.raises(InputError, match="after step 3, but the neurons that run have 2"):
            snn(images)
        with snn.with_steps(4):
            found = snn(images)
    with snn.with_steps(4), snn.readout(3):
        assert torch.equal(snn(images), found)


def test_a_neuron_called_by_itself_follows_the_block(snn: SpikingModel) -> None:
    neuron, x = snn.sites["silu"], torch.linspace(-3, 3, 200)
    with snn.readout(1), snn.count_spikes() as counted:
        cut = neuron(x)
        assert FewSpikesNeuron([1.0], [1.0], [1.0])(torch.tensor([2.0])) == 1.0
    assert not torch.equal(cut, neuron(x))
    assert counted == {"relu": 0, "silu": int(neuron.spikes(x)[:1].sum())}


def test_inside_repeated_other_inputs_are_noticed(snn: SpikingModel, images: Tensor) -> None:
    with torch.no_grad():
        first, second = snn(images), snn(2 * images)
        given = images.clone()
        with snn.repeated():
            assert torch.equal(snn(given), first)
            assert torch.equal(snn(2 * images), second)
            assert torch.equal(snn(given), first)
            given.mul_(2)
            assert torch.equal(snn(given), second)


def test_features_follow_the_blocks(snn: SpikingModel, images: Tensor) -> None:
    part = features(snn, ["relu", "head"])
    with torch.no_grad(), snn.with_steps(5), snn.readout(2), snn.count_spikes() as counted:
        found = part(images)
        assert torch.equal(found["head"], snn(images))
    assert counted["relu"] > 0 and counted["silu"] > 0


@pytest.fixture
def hooked(snn: SpikingModel) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = snn.sites["silu"].register_forward_hook(lambda m, args, y: seen.append(y))
    yield seen
    handle.remove()


def test_hooks_run_in_blocks(snn: SpikingModel, images: Tensor, hooked: list[Tensor]) -> None:
    outputs: list[Any] = []
    handle = snn.network.register_forward_hook(lambda m, args, y: outputs.append(y[0]))
    with torch.no_grad(), snn.readout(1), snn.count_spikes() as counted:
        found = snn(images)
    handle.remove()
    assert len(hooked) == 1 and torch.equal(outputs[0], found)
    assert counted["silu"] > 0


def test_the_fast_path_is_what_users_get(snn: SpikingModel, images: Tensor) -> None:
    from convert.network import buffer_reuse

    used: list[int] = []
    original = buffer_reuse.Program.__call__

    def spy(self: Any, *args: Any) -> Any:
        used.append(1)
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffer_reuse.Program, "__call__", spy)
        snn(images)
        assert len(used) == 1
        snn(images.clone().requires_grad_())
        assert len(used) == 1
        weight = snn.network.get_parameter("head.weight")
        weight.requires_grad_()
        outputs = snn(images)
        assert len(used) == 1 and outputs.requires_grad
        weight.requires_grad_(False)
        with torch.no_grad():
            snn(images)
        assert len(used) == 2


def test_gradients_reach_weights_within_blocks(snn: SpikingModel, images: Tensor) -> None:
    tuned = load_copy(snn).unfreeze()
    with tuned.with_steps(5):
        tuned(images).square().sum().backward()
    for name in ("first.bias", "second.bias", "head.bias", "first.weight"):
        gradient = tuned.network.get_parameter(name).grad
        assert gradient is not None and bool(gradient.abs().sum() > 0), name


def load_copy(snn: SpikingModel) -> SpikingModel:
    """The network after a trip through pickle."""
    copied = pickle.loads(pickle.dumps(snn))
    assert isinstance(copied, SpikingModel)
    return copied


def test_pickle(snn: SpikingModel, images: Tensor, tmp_path: Any) -> None:
    snn.check_inputs = False
    snn.network.get_parameter("head.weight").requires_grad_()
    copied = load_copy(snn)
    snn.network.get_parameter("head.weight").requires_grad_(False)
    snn.check_inputs = True
    assert [n for n, p in copied.named_parameters() if p.requires_grad] == ["network.head.weight"]
    assert not copied.check_inputs and copied.steps == 3
    torch.save(snn, tmp_path / "net.pt")
    again = torch.load(tmp_path / "net.pt", weights_only=False)
    part = pickle.loads(pickle.dumps(features(snn, ["relu"])))
    with torch.no_grad():
        assert torch.equal(copied(images), snn(images))
        assert torch.equal(again(images), snn(images))
        assert torch.equal(part(images)["relu"], features(snn, ["relu"])(images)["relu"])
    with pytest.raises(InputError, match="original"):
        pickle.dumps(snn.original())


def _outputs(snn: SpikingModel, images: Tensor, queue: Any) -> None:
    torch.set_num_threads(1)
    with torch.no_grad():
        queue.put(snn(images).numpy())


def test_a_spawned_process(snn: SpikingModel, images: Tensor) -> None:
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_outputs, args=(snn, images, queue))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    with torch.no_grad():
        assert torch.equal(torch.from_numpy(found), snn(images))


def test_compiled_networks_follow_blocks(snn: SpikingModel, images: Tensor) -> None:
    torch.compiler.reset()
    compiled = torch.compile(snn, backend="eager")

    def close(a: Tensor, b: Tensor) -> bool:
        # A traced network isn't laid out channels-last, and rounds in another way.
        return torch.allclose(a, b, rtol=1e-4, atol=1e-5)

    with torch.no_grad():
        whole = snn(images)
        for _ in range(2):
            assert close(compiled(images), whole)
            with snn.readout(1):
                cut = snn(images)
                assert close(compiled(images), cut) and not close(cut, whole)
            with snn.with_steps(5), snn.count_spikes() as counted:
                assert close(compiled(images), snn(images))
            assert counted["silu"] > 0


def test_transforms_of_a_network(snn: SpikingModel, images: Tensor) -> None:
    with torch.no_grad():
        expected = snn(images)
    along = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    given = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(snn(given).sum(), given)
    value, tangent = torch.func.jvp(snn, (images,), (along,))
    assert torch.allclose(value, expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(tangent.sum(), (slope * along).sum(), rtol=1e-3, atol=1e-4)
    batched = torch.func.vmap(snn)(images.view(2, 2, *images.shape[1:]))
    assert torch.allclose(batched.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)
    traced = make_fx(snn)(images)
    assert torch.allclose(traced(images), expected, rtol=1e-4, atol=1e-5)


def test_replicas_of_data_parallel(snn: SpikingModel, images: Tensor) -> None:
    """What `nn.DataParallel` does with each GPU, on the CPU."""
    tuned = load_copy(snn).unfreeze()

    def replicated(module: nn.Module) -> nn.Module:
        copied = module._replicate_for_data_parallel()
        for name, child in module._modules.items():
            copied._modules[name] = None if child is None else replicated(child)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                setattr(copied, name, parameter.view_as(parameter))
        return copied

    with tuned.with_steps(5), tuned.readout(2):
        expected = tuned(images)
        replica = replicated(tuned)
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(replica(images)))
    thread.start()
    thread.join()
    assert torch.equal(found[0], expected)
    found[0].square().sum().backward()
    assert tuned.network.get_parameter("first.weight").grad is not None


def test_a_forward_put_in_the_graphs_place(snn: SpikingModel, images: Tensor) -> None:
    expected = snn(images)
    changed = load_copy(snn)
    plain = changed.network.forward
    changed.network.forward = lambda *leaves: tuple(2 * y for y in plain(*leaves))
    assert torch.allclose(changed(images), 2 * expected)
