"""The module gives what the simulation gives, and its layers get zeros and ones alone."""

from typing import Any

import pytest
import torch
from spikingjelly.activation_based.op_counter import ACCounter, DispatchCounterMode, SynOpCounter
from support.random_networks import RandomNetwork, images
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from convert import InputError, SpikingModel, to_spiking
from convert.inspect import as_spiking_module, simulate
from convert.inspect.spiking_module import SpikeBySpike, _split


class Norms(nn.Module):
    """A convolution that is called twice, a batch norm on its own, and pooling in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.norm.running_mean += 0.3

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(torch.relu(self.first(x))))
        x = torch.relu(self.norm(x) + self.shared(x))
        x = nn.functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return self.head(torch.relu(self.shared(x)).mean((2, 3)))


def _converted(model: nn.Module, x: Tensor, **more: Any) -> SpikingModel:
    return to_spiking(model, x, steps=3, method="binary", progress=False, **more)


@pytest.fixture(scope="module")
def norms() -> nn.Module:
    """Random, the same each time; not to be changed."""
    torch.manual_seed(3)
    return Norms().eval()


def _given(module: SpikeBySpike, x: Tensor) -> dict[str, list[Tensor]]:
    """What each layer is called with."""
    found: dict[str, list[Tensor]] = {name: [] for name in module.layers}
    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: found[name].append(given[0]))
        for name, layer in module.layers.items()
    ]
    module(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("gates", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs(noise: Tensor, norms: nn.Module, gates: int, dtype: torch.dtype) -> None:
    snn = _converted(norms, noise, **({"gates": gates} if gates else {})).to(dtype)
    x = noise[:23].to(dtype)
    simulation = simulate(snn, x, progress=False)
    found = as_spiking_module(snn)(x)
    exact = dtype == torch.float64
    torch.testing.assert_close(found, simulation.outputs, rtol=0, atol=1e-14 if exact else 1e-6)


def test_outputs_don_t_turn_on_who_counts(noise: Tensor, small_model: nn.Module) -> None:
    snn = _converted(small_model, noise)
    module = as_spiking_module(snn)
    x = noise.contiguous(memory_format=torch.channels_last)
    alone = module(x)
    with DispatchCounterMode([ACCounter()]):
        assert torch.equal(module(x), alone)


@pytest.mark.parametrize("gates", [0, 2])
def test_layers_get_zeros_and_ones(noise: Tensor, norms: nn.Module, gates: int) -> None:
    snn = _converted(norms, noise, **({"gates": gates} if gates else {}))
    module = as_spiking_module(snn)
    x = noise[:6]
    given = _given(module, x)
    assert list(given) == ["first", "shared", "shared_2", "shared_3", "head"]
    (image,) = given.pop("first")
    assert torch.equal(image, x) and module.layers["first"].bias is not None
    trains = 3 * (gates + 1)
    constants = sum(int((site.offset != 0).sum()) for site in snn.sites.values()) if gates else 0
    for name, calls in given.items():
        assert module.layers[name].bias is None
        assert all(bool(((v == 0) | (v == 1)).all()) for v in calls), name
        # Once a train; more often behind a pooling.
        if name in ("shared", "shared_2"):
            assert trains <= len(calls) <= trains + constants
        else:
            assert len(calls) > trains + constants
    assert module.left_out == ["norm"]


def test_sites_speak_once_a_step(noise: Tensor, small_model: nn.Module) -> None:
    snn = _converted(small_model, noise)
    simulation = simulate(snn, noise[:5], record="*", progress=False)
    module = as_spiking_module(snn)
    spoken: dict[str, list[Tensor]] = {}
    for key, site in module.sites.items():
        name = module.places[f"sites.{key}"]
        spoken[name] = []
        site.register_forward_hook(lambda _, given, out, name=name: spoken[name].append(out))
    module(noise[:5])
    assert list(spoken) == list(snn.sites)
    for name, spikes in simulation.spikes.items():
        assert torch.equal(torch.stack(spoken[name]).bool(), spikes)


def test_a_weight_is_there_once(noise: Tensor, norms: nn.Module) -> None:
    snn = _converted(norms, noise)
    module = as_spiking_module(snn)
    assert module.layers["shared"].weight is module.layers["shared_2"].weight
    sizes = [t.numel() for t in [*module.parameters(), *module.buffers()]]
    assert sum(sizes) == sum(t.numel() for t in module.network.state_dict().values())


def test_the_network_is_left_alone(noise: Tensor, small_model: nn.Module) -> None:
    snn = _converted(small_model, noise)
    before = {name: t.clone() for name, t in snn.state_dict().items()}
    module = as_spiking_module(snn).double()
    module(noise[:3].double())
    with torch.no_grad():
        module.layers["first"].weight.zero_()
    assert all(torch.equal(t, before[name]) for name, t in snn.state_dict().items())
    assert all(t.dtype == before[name].dtype for name, t in snn.state_dict().items())
    assert all(not p.requires_grad for p in module.parameters())


def test_neurons_of_another_k(noise: Tensor, small_model: nn.Module) -> None:
    snn = to_spiking(small_model, noise, steps=(2, 4), method="binary", progress=False)
    with snn.with_steps(4):
        module = as_spiking_module(snn)
        expected = simulate(snn, noise[:4], progress=False).outputs
    torch.testing.assert_close(module(noise[:4]), expected, rtol=0, atol=1e-6)
    assert len(_given(module, noise[:4])["second"]) == 4


def test_nan_stays_nan(noise: Tensor, small_model: nn.Module) -> None:
    x = noise[:2].clone()
    x[1, 0, 3, 3] = torch.nan
    found = as_spiking_module(_converted(small_model, noise))(x)
    assert bool(found[0].isfinite().all()) and bool(found[1].isnan().all())


@pytest.mark.parametrize("seed", range(2))
def test_random_networks(seed: int) -> None:
    more: dict[str, Any] = {"gates": 1} if seed % 2 else {"encode": True}
    snn = _converted(RandomNetwork(seed).eval(), images(seed, 12), **more).double()
    x = images(seed + 1, 5).double()
    simulation, module = simulate(snn, x, progress=False), as_spiking_module(snn)
    counter = SynOpCounter()
    with DispatchCounterMode([counter]):
        outputs = module(x)
    for a, b in zip(*map(pytree.tree_leaves, (outputs, simulation.outputs)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert not module.left_out
    assert counter.get_total() == round(simulation.counts["accumulates"] * len(x)) > 0


def test_planes() -> None:
    """Two factors and up to three events a place."""
    count = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]], dtype=torch.float64)
    factor = torch.tensor([[1.0, 0.25, 0.25], [0.25, 1.0, -0.5]])
    planes = list(_split((count * factor).float(), count))
    assert len(planes) == 4
    assert all(bool(((mask == 0) | (mask == 1)).all()) for _, mask in planes)
    assert torch.equal(sum(mask for _, mask in planes), count.float())
    whole = sum(mask * factor for factor, mask in planes if factor is not None)
    assert torch.equal(whole, (count * factor).float())


def test_bad_input(noise: Tensor, small_model: nn.Module) -> None:
    with pytest.raises(InputError, match="converted network, found Small"):
        as_spiking_module(small_model)  # type: ignore[arg-type]
    snn = _converted(small_model, noise)
    with snn.readout(2), pytest.raises(InputError, match="leave the block"):
        as_spiking_module(snn)
    module = as_spiking_module(snn)
    with pytest.raises(InputError, match="shape"):
        module(noise[:, :, :5])
    with pytest.raises(InputError, match="at least one"):
        module(noise[:0])
