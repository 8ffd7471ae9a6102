"""Events of every site, as numbers or as tensors that nobody reads until the end."""

import pytest
import torch
from torch import Tensor

from convert import SpikingModel, to_spiking
from convert.network.spike_counts import SpikeCounts
from convert.neuron import few_spikes


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
    run = few_spikes.fused.run

    def as_a_gpu_does(*given: object, **how: object) -> tuple[Tensor, Tensor, Tensor | None]:
        y, count, tally = run(*given, **how)
        return y, torch.tensor(count), tally

    reads: list[int] = []
    stack = torch.stack

    def noted(tensors: list[Tensor], *others: int) -> Tensor:
        reads.append(len(tensors))
        return stack(tensors, *others)

    monkeypatch.setattr(few_spikes.fused, "run", as_a_gpu_does)
    assert isinstance(snn, SpikingModel)
    with snn.count_spikes() as outer:
        with snn.count_spikes() as found:
            snn(images)
            snn(images)
            monkeypatch.setattr(torch, "stack", noted)
            assert found == {}
        assert reads == [len(snn.sites)]
    assert outer == found == expected and sum(expected.values()) > 0
