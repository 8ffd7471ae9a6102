"""Fitting one neuron to one function: the public `fit`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import FitError
from ..neuron.few_spikes import FewSpikesNeuron
from .distributions import Density, distribution
from .functions import Function, problem_of
from .methods import DEFAULT, METHODS, check, fit_problems
from .problem import Problem, Solution, check_gates, check_steps, warn_of_many_steps


def fit_solutions(
    function: Function,
    steps: Sequence[int],
    *,
    low: float | None = None,
    high: float | None = None,
    normal: tuple[float, float] | None = None,
    density: Density | None = None,
    method: str = DEFAULT,
    seed: int = 0,
    effort: str = "normal",
    spike_cost: float = 0.0,
    gates: int = 0,
    progress: bool = False,
) -> list[tuple[Problem, Solution]]:
    """As `fit`, for several numbers of steps, with the problems and the figures."""
    check(method, effort, seed)
    for k in steps:
        check_steps(k)
    check_gates(gates)
    warn_of_many_steps(steps, stacklevel=4)
    if spike_cost != 0 and not METHODS[method].spike_cost:
        able = [name for name, known in METHODS.items() if known.spike_cost]
        raise FitError(
            f"spike_cost= needs method={' or '.join(map(repr, able))}; {method!r} can't heed it"
        )
    edges, weights = distribution(low=low, high=high, normal=normal, density=density)
    problems = [
        problem_of(function, edges, weights, k, spike_cost=spike_cost, gates=gates) for k in steps
    ]
    found = fit_problems(problems, method, seed=seed, effort=effort, progress=progress)
    return list(zip(problems, found, strict=True))


def fit(
    function: Function,
    *,
    low: float | None = None,
    high: float | None = None,
    normal: tuple[float, float] | None = None,
    density: Density | None = None,
    steps: int = 8,
    method: str = DEFAULT,
    seed: int = 0,
    effort: str = "normal",
    spike_cost: float = 0.0,
    gates: int = 0,
    progress: bool = False,
) -> FewSpikesNeuron:
    """A few-spikes neuron for a function under an input distribution.

    Args:
        function: elementwise function of a float64 tensor.
        low, high: ends of a uniform distribution; or
        normal: mean and standard deviation of a normal distribution; or
        density: bin edges ``[B + 1]`` and weights ``[B]``.
        steps: K, one whole number from 1 to 63.
        method: see `convert.fitting.methods.METHODS`.
        seed: of everything random.
        effort: ``"normal"``, or ``"high"`` for about ten times the work.
        spike_cost: squared error that one spike fewer is worth, >= 0.
        gates: G - 1, from 0 to 15: the gates that divide the inputs among G tables. One time
            step more, and a far smaller error on curves.
        progress: shows a bar on stderr.

    Raises:
        FitError: for a distribution, function or K that can't be fitted.
    """
    ((problem, solution),) = fit_solutions(
        function,
        [steps],
        low=low,
        high=high,
        normal=normal,
        density=density,
        method=method,
        seed=seed,
        effort=effort,
        spike_cost=spike_cost,
        gates=gates,
        progress=progress,
    )
    neuron = FewSpikesNeuron(
        solution.thresholds,
        solution.resets,
        solution.weights,
        solution.offset,
        solution.gates,
    )
    neuron.set_missing_means(
        torch.from_numpy(problem.centres).float(), torch.from_numpy(problem.weights)
    )
    return neuron
