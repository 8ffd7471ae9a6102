"""The fused pass over memory computes what the definition says, bit for bit."""

import pytest
import torch
from torch import Tensor

from convert import kernel
from convert.neuron import FewSpikesNeuron


def _neuron(steps: int = 8) -> FewSpikesNeuron:
    g = torch.Generator().manual_seed(0)
    table = (
        torch.randn(steps, generator=g),
        torch.randn(steps, generator=g).abs(),
        torch.randn(steps, generator=g),
    )
    neuron = FewSpikesNeuron(*table, offset=0.3)
    neuron.missing_mean.normal_(generator=g)
    return neuron


def _layouts() -> list[Tensor]:
    x = torch.randn(5, 16, 9, 9, generator=torch.Generator().manual_seed(1)) * 3
    flat = x.view(-1)
    flat[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    flat[4:12] = _neuron().thresholds
    return [
        x,
        x.to(memory_format=torch.channels_last),
        x.transpose(1, 2),
        x[:, ::2],
        x[0, 0, 0, 0],
        x[:0],
        x[:1, :1].expand(3, 4, 9, 9),
    ]


@pytest.mark.parametrize("step", [None, 1, 3])
@pytest.mark.parametrize("corrected", [True, False])
def test_equals_the_definition(
    step: int | None, corrected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    neuron = _neuron()
    neuron.readout_step, neuron.readout_corrected, neuron.counting = step, corrected, True
    for x in _layouts():
        assert kernel.usable(x)
        neuron.spike_count = 0
        fused, spikes = neuron(x), neuron.spike_count
        with monkeypatch.context() as patch:
            patch.setattr(kernel, "usable", lambda _: False)
            neuron.spike_count = 0
            eager = neuron(x)
        assert torch.equal(torch.isnan(fused), torch.isnan(x))
        assert torch.equal(fused.nan_to_num(7), eager.nan_to_num(7))
        assert spikes == neuron.spike_count


def test_is_left_out_where_it_does_not_apply() -> None:
    assert not kernel.usable(torch.zeros(3, dtype=torch.float16))
    assert not kernel.usable(torch.zeros(3, device="meta"))


def test_input_is_left_alone() -> None:
    x = torch.randn(4, 5)
    before = x.clone()
    _neuron()(x)
    assert torch.equal(x, before)
