"""The neuron: its definition, its edges, and SpikingJelly's node."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import neuron as sj_neuron

from convert.errors import InputError
from convert.neuron.few_spikes import FewSpikesNeuron, NeuronPlan

_finite = st.floats(-8, 8, width=32)


@st.composite
def neurons(draw: st.DrawFn) -> FewSpikesNeuron:
    steps = draw(st.integers(1, 9))
    rows = [draw(st.lists(_finite, min_size=steps, max_size=steps)) for _ in range(3)]
    return FewSpikesNeuron(*rows, offset=draw(_finite))


@given(neurons(), st.lists(_finite, min_size=1, max_size=20))
def test_follows_the_definition(neuron: FewSpikesNeuron, values: list[float]) -> None:
    x = torch.cat([torch.tensor(values), neuron.thresholds, torch.tensor([-0.0])])
    v, y = x.clone(), neuron.offset + torch.zeros_like(x)
    for t in range(neuron.steps):
        for i in range(len(x)):
            if v[i] > neuron.thresholds[t]:
                y[i] = y[i] + neuron.weights[t]
                v[i] = v[i] - neuron.resets[t]
    assert torch.equal(neuron(x), y)


@given(neurons(), st.lists(_finite, min_size=1, max_size=20))
def test_equals_spikingjelly_bit_for_bit(neuron: FewSpikesNeuron, values: list[float]) -> None:
    neuron.offset.zero_()
    table = neuron.to_table()
    x = torch.cat([torch.tensor(values), neuron.thresholds, table.theta])
    node = sj_neuron.FewSpikeNode(table, step_mode="s")
    assert torch.equal(node(x), neuron(x))
    back = FewSpikesNeuron.from_table(table)
    for name, value in neuron.state_dict().items():
        assert torch.equal(value, back.state_dict()[name]), name


@given(neurons(), st.lists(_finite, min_size=1, max_size=20))
def test_multi_step_sums_to_single_step(neuron: FewSpikesNeuron, values: list[float]) -> None:
    x = torch.tensor(values)
    single = neuron(x)
    functional.set_step_mode(neuron, "m")
    currents = torch.zeros(neuron.steps, *x.shape)
    currents[0] = x
    weighted = neuron(currents)
    total = neuron.offset + torch.zeros_like(x)
    for row in weighted:
        total = total + row
    assert torch.equal(total, single)
    assert torch.equal(neuron.decode(x), single)


def test_edges() -> None:
    neuron = FewSpikesNeuron([1.0, 0.0], [1.0, 0.5], [2.0, 1.0], 0.25)
    x = torch.tensor([1.0, -0.0, float("inf"), float("-inf"), float("nan")])
    y = neuron(x)
    assert y[:4].tolist() == [1.25, 0.25, 3.25, 0.25] and bool(y[4].isnan())
    assert neuron.spikes(x).shape == (2, 5) and neuron.spikes(x).dtype == torch.bool


def test_half_precision_keeps_its_parameters() -> None:
    neuron = FewSpikesNeuron([0.1], [0.2], [0.3]).half()
    assert neuron.thresholds.dtype == torch.float32
    assert neuron(torch.ones(2, dtype=torch.float16)).dtype == torch.float16
    assert neuron.double().thresholds.dtype == torch.float64


def test_readout_and_counting() -> None:
    neuron = FewSpikesNeuron([2.0, 1.0, 0.5], [2.0, 1.0, 0.5], [2.0, 1.0, 0.5])
    x = torch.tensor([3.9, 1.6, 0.7])
    neuron.set_missing_means(x, torch.full((3,), 1 / 3))
    assert neuron(x, plan=NeuronPlan(steps=1)).tolist() == [2.0, 0.0, 0.0]
    mean = neuron(x, plan=NeuronPlan(steps=1, corrected=True)).mean()
    assert mean == pytest.approx(float(neuron(x, plan=NeuronPlan(steps=3)).mean()))
    counted: list[int] = []
    neuron(x, plan=NeuronPlan(count=counted.append))
    assert counted == [int(neuron.spikes(x).sum())]


def test_bad_parameters() -> None:
    with pytest.raises(InputError, match="one length K"):
        FewSpikesNeuron([1.0], [1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="finite"):
        FewSpikesNeuron([float("nan")], [1.0], [1.0])
    with pytest.raises(InputError, match="step mode m takes"):
        FewSpikesNeuron([1.0], [1.0], [1.0], step_mode="m")(torch.zeros(2, 3))
