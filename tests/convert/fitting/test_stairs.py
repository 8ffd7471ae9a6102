"""Staircases are neurons that give them exactly, with one step a jump or one a bit."""

import numpy as np
import pytest
import torch

from convert.fitting.jumps import find_jumps
from convert.fitting.methods import fit_problems
from convert.fitting.problem import Problem, Solution, Stairs, Start
from convert.neuron.few_spikes import FewSpikesNeuron


def _problem(function: object, steps: int, **rest: object) -> Problem:
    edges = np.linspace(-2, 2, 401)
    centres = 0.5 * (edges[1:] + edges[:-1])

    def sampled(x: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(x)).numpy()  # type: ignore[operator]

    stairs = find_jumps(sampled, centres, np.float32).stairs
    values, weights = sampled(centres), np.full(400, 1 / 400)
    return Problem(edges, weights, values, steps, stairs=stairs, **rest)  # type: ignore[arg-type]


def _solved(problem: Problem) -> tuple[Solution, FewSpikesNeuron]:
    (s,) = fit_problems([problem], "binary")
    return s, FewSpikesNeuron(s.thresholds, s.resets, s.weights, s.offset)


@pytest.mark.parametrize(
    ("function", "steps"),
    [
        (lambda x: (x > 0.3).to(x), 1),
        (lambda x: 0.7 - 2 * (x >= 0.3).to(x), 1),
        (torch.sign, 2),
        (lambda x: (x > -0.5).to(x) * (x < 0.9).to(x), 2),
        (lambda x: torch.round(x.clamp(0, 1) * 3) / 3, 2),
        (lambda x: torch.floor(x.clamp(0, 0.999) * 16), 4),
        (lambda x: torch.round(x), 5),
    ],
)
def test_is_exact_for_every_float(function: object, steps: int) -> None:
    problem = _problem(function, steps)
    solution, neuron = _solved(problem)
    assert solution.start is Start.STAIRS
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(neuron(x), function(x), rtol=0, atol=1e-6)  # type: ignore[operator]
    if steps >= len(problem.stairs[0].jumps):
        at = torch.from_numpy(problem.stairs[0].jumps).float()
        for edge in (at, torch.nextafter(at, torch.full_like(at, 9.0))):
            torch.testing.assert_close(neuron(edge), function(edge), rtol=0, atol=1e-6)  # type: ignore[operator]


def test_a_barred_constant_is_a_step_of_its_own() -> None:
    solution, neuron = _solved(_problem(lambda x: 2 * (x > 0).to(x) - 1, 2, offset=False))
    assert solution.offset == 0.0 and solution.start is Start.STAIRS
    assert neuron(torch.tensor([-1e6, -0.1, 0.0, 0.1])).tolist() == [-1, -1, -1, 1]


def test_fewer_steps_keep_the_jumps_that_matter() -> None:
    solution, neuron = _solved(_problem(torch.sign, 1))
    assert solution.start is Start.STAIRS
    assert neuron(torch.tensor([-1e-30, 1e-30])).tolist() == [-1, 1]
    coarse, _ = _solved(_problem(lambda x: torch.round(x * 10) / 10, 2))
    fine, _ = _solved(_problem(lambda x: torch.round(x * 10) / 10, 4))
    assert fine.mse < 0.2 * coarse.mse


def test_a_constant_seen_beside_a_mask_is_no_y0() -> None:
    edges, flat = np.linspace(-1, 1, 5), np.full(4, 0.25)
    (found,) = fit_problems([Problem(edges, flat, np.ones(4), 2, masked=True)], "binary")
    assert found.offset == 0.0 and found(np.array([-1e9, 0.0, 5.0])).tolist() == [1, 1, 1]
    assert Stairs(np.empty(0), np.ones(1)).lowered(1.0).levels.tolist() == [0.0]
