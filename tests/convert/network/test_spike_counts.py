"""Events of every site, as numbers or as tensors that nobody reads until the end."""

import pytest
import torch
from support.waits import Deep, Waits, neurons_as_on_a_gpu
from torch import Tensor

from convert import SpikingModel, evaluate, to_spiking
from convert.network.spike_counts import SpikeCounts


def test_numbers_and_tensors_add_up() -> None:
    counts = SpikeCounts(["a", "b", "c"])
    first = torch.tensor(2**40)
    for site, events in [("a", 3), ("a", first), ("b", torch.tensor(7)), ("a", torch.tensor(1))]:
        counts.add(site, events)
    assert counts.totals() == counts.totals() == {"a": 2**40 + 4, "b": 7, "c": 0}
    # Others may hold the tensor that was told.
    assert int(first) == 2**40
    assert all(type(number) is int for number in counts.totals().values())
    with pytest.raises(KeyError):
        counts.add("d", 1)


def test_a_block_reads_tensors_once_it_ends(
    small_model: torch.nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    snn = to_spiking(small_model, images, steps=4, method="binary", progress=False)
    with snn.count_spikes() as expected:
        snn(images)
        snn(images)
    reads: list[int] = []
    stack = torch.stack

    def noted(tensors: list[Tensor], *others: int) -> Tensor:
        reads.append(len(tensors))
        return stack(tensors, *others)

    neurons_as_on_a_gpu(monkeypatch)
    assert isinstance(snn, SpikingModel)
    with snn.count_spikes() as outer:
        with snn.count_spikes() as found:
            snn(images)
            snn(images)
            monkeypatch.setattr(torch, "stack", noted)
            assert found == {}
        assert reads == [len(snn.sites)]
    assert outer == found == expected and sum(expected.values()) > 0


def test_an_evaluation_waits_no_more_for_more_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))
    numbers = []
    for layers in (1, 4):
        snn = to_spiking(Deep(layers), x, steps=3, method="binary", progress=False)
        expected = evaluate(snn, None, [x], by_site=0, progress=False)
        with monkeypatch.context() as patch:
            neurons_as_on_a_gpu(patch)
            with Waits() as waits:
                found = evaluate(snn, None, [x], by_site=0, progress=False)
        assert found.spiking == expected.spiking and found.by_step == expected.by_step
        assert found.spikes_per_neuron == expected.spikes_per_neuron
        numbers.append(waits.number)
    assert 0 < numbers[0] == numbers[1], waits.found
