"""Neurons of integers: the fast run, the run spike by spike, and values that a mask hides."""

import pytest
import torch

from convert.calibration.histogram import HIDDEN
from convert.hardware.neurons import WholeNeuron, whole_neuron


def _neuron(tables: int, seed: int) -> WholeNeuron:
    rng = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=rng)

    return WholeNeuron(
        draw(-900, 900, tables, 6),
        draw(-400, 400, tables, 6),
        2 ** draw(0, 9, tables, 6) * (2 * draw(0, 2, tables, 6) - 1),
        draw(-50, 50, tables),
        draw(-500, 500, tables - 1).sort().values,
        32767,
    )


@pytest.mark.parametrize("tables", [1, 2, 4])
def test_the_fast_run_has_the_integers_of_the_steps(tables: int) -> None:
    x = torch.arange(-3000, 3000).reshape(3, -1)
    for seed in range(5):
        neuron = _neuron(tables, seed)
        assert torch.equal(neuron(x), neuron.stepwise(x))
    spikes, interval = neuron.spikes(x)
    assert spikes.shape == (6, *x.shape) and (interval is None) == (tables == 1)


def test_it_fires_above_a_threshold_and_not_at_it() -> None:
    one = torch.tensor([[4]])
    neuron = WholeNeuron(one, one, one, torch.tensor([1]), torch.empty(0).long(), 100)
    assert neuron(torch.tensor([3, 4, 5])).tolist() == [1, 1, 5]


def test_thresholds_below_all_values_fire_for_all_but_hidden_ones() -> None:
    given = torch.tensor([[-1e30, 0.3]])
    neuron = whole_neuron(
        given, torch.zeros(1, 2), torch.empty(0), torch.tensor([[8, 2]]), torch.tensor([0]),
        unit=0.01, most=127,
    )  # fmt: skip
    assert neuron.thresholds.tolist() == [[-128, 30]]
    assert neuron(torch.tensor([-127, 0, 31, -128])).tolist() == [8, 8, 10, 0]
    hidden = whole_neuron(
        torch.tensor([[HIDDEN / 2]]), torch.zeros(1, 1), torch.empty(0), torch.tensor([[8]]),
        torch.tensor([0]), unit=1e12, most=127,
    )  # fmt: skip
    assert hidden(torch.tensor([-127, -128])).tolist() == [8, 0]
