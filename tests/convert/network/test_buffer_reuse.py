"""Neurons, sums and products reuse memory, and nobody notices."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convert
from convert.neuron.few_spikes import FewSpikesNeuron


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        y = self.second(x)
        return x * torch.sigmoid(y) + torch.relu(x - self.first(y) + y).mean((2, 3), keepdim=True)


@pytest.fixture(scope="module")
def snn() -> convert.SpikingModel:
    torch.manual_seed(0)
    return convert.to_spiking(
        Residual(), torch.randn(8, 4, 6, 6), steps=4, method="binary", progress=False
    )


def test_outputs_and_inputs_are_as_ever(snn: convert.SpikingModel) -> None:
    x = torch.randn(3, 4, 6, 6)
    before = x.clone()
    expected = snn(x)
    with torch.no_grad():
        first, second = snn(x), snn(x)
    with torch.inference_mode():
        third = snn(x)
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)
    assert torch.equal(third, expected)
    assert torch.equal(x, before)


def test_sums_and_neurons_do_write_in_place(snn: convert.SpikingModel) -> None:
    with torch.no_grad():
        snn(torch.randn(1, 4, 6, 6))
    assert snn._runner is not None and snn._runner._program is not None
    program = snn._runner._program
    # relu reads a convolution that nobody else reads, sigmoid one that is read later. What is
    # subtracted is new, its sum goes into a neuron; the product and the last sum are new too.
    assert program.overwriting == 4
    names = " ".join(program.function.__code__.co_names)
    assert "mul_into" in names and "add_into" in names and "run_site_sum" in names


def test_a_neuron_called_alone_leaves_its_input(snn: convert.SpikingModel) -> None:
    with torch.no_grad():
        snn(torch.randn(1, 4, 6, 6))
        for neuron in snn.sites.values():
            x = torch.randn(5)
            before = x.clone()
            neuron(x)
            assert torch.equal(x, before)


def test_hooks_keep_what_they_saw(snn: convert.SpikingModel) -> None:
    x = torch.randn(2, 4, 6, 6)
    kept: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def hook(name: str) -> object:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept[name] = (inputs[0], inputs[0].clone(), output, output.clone())

        return keep

    handles = [
        neuron.register_forward_hook(hook(name))  # type: ignore[arg-type]
        for name, neuron in snn.sites.items()
    ]
    with torch.no_grad():
        snn(x)
    for handle in handles:
        handle.remove()
    assert set(kept) == set(snn.sites)
    for given, given_then, output, output_then in kept.values():
        assert torch.equal(given, given_then)
        assert torch.equal(output, output_then)


def test_exact_functions_in_place_of_neurons(snn: convert.SpikingModel) -> None:
    x = torch.randn(2, 4, 6, 6)
    original = snn.original()
    with torch.no_grad(), snn.spiking_only([]):
        assert torch.equal(snn(x), original(x))


def test_a_copy_runs_on_its_own_weights(snn: convert.SpikingModel) -> None:
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        expected = snn(x)
        copied = copy.deepcopy(snn)
        assert torch.equal(copied(x), expected)
        for parameter in copied.network.parameters():
            parameter.zero_()
        assert torch.equal(snn(x), expected)
        assert not torch.equal(copied(x), expected)


def test_repeated_inputs_share_what_comes_before_the_neurons(snn: convert.SpikingModel) -> None:
    first, second = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        expected = {t: [] for t in (1, 2, None)}  # type: ignore[var-annotated]
        for x in (first, second):
            for t in expected:
                with snn.readout(t):
                    expected[t].append(snn(x))
        for i, x in enumerate((first, second)):
            with snn.repeated():
                for t in expected:
                    for _ in range(2):
                        with snn.readout(t):
                            assert torch.equal(snn(x), expected[t][i])
        assert torch.equal(snn(first), expected[None][0])


class Block(nn.Module):
    """Sums before neurons: of values that nobody else reads, of such that are read later."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x) + x)
        x = torch.relu(self.second(x) + x)
        y, z = self.first(x), self.second(x)
        x = torch.relu(y + z) - y + z
        # A sum that is broadcast is none of its neuron's input.
        return torch.sigmoid(y + x.mean((2, 3), keepdim=True)) + torch.relu(x + 1)


@pytest.mark.parametrize("worth", [0, 10**18], ids=["compiled", "blocks"])
def test_neurons_take_sums(worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert.neuron.fused, "WORTH_COMPILING", worth)
    monkeypatch.setattr(convert.neuron.fused, "_ready", set())
    monkeypatch.setattr(convert.network.buffer_reuse, "_WORTH_ONE_PASS", 0)
    torch.manual_seed(0)
    given = torch.randn(8, 4, 6, 6)
    snn = convert.to_spiking(Block(), given, steps=(4, 6), method="binary", progress=False)
    # As the network lays it out: convolutions round by layout.
    x = torch.randn(5, 4, 6, 6).to(memory_format=torch.channels_last)
    before = x.clone()
    summed: list[int] = []
    decode = FewSpikesNeuron.decode

    def spy(
        self: FewSpikesNeuron, given: Tensor, addend: Tensor | None = None, **how: Any
    ) -> Tensor:
        summed.append(addend is not None)
        return decode(self, given, addend, **how)

    for block in (nullcontext, lambda: snn.with_steps(6), lambda: snn.spiking_only(["relu_1"])):
        with block(), torch.no_grad():
            (expected,) = snn.as_planned(snn.plan)(x)
            monkeypatch.setattr(FewSpikesNeuron, "decode", spy)
            with snn.count_spikes() as counted:
                found = snn(x)
            monkeypatch.setattr(FewSpikesNeuron, "decode", decode)
            with snn.repeated():
                again = snn(x)
        assert torch.equal(found, expected)
        assert torch.equal(again, expected)
        assert torch.equal(x, before)
        assert sum(counted.values()) > 0
    assert sum(summed) == 3 + 3 + 1
