"""Fitting one neuron to one function: the public `fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import erf, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import FitError
from ..neuron.few_spikes import FewSpikesNeuron
from .methods import DEFAULT, SWEEPS, fit_problems
from .problem import Array, Problem, Solution

_BINS = 16384
# Of a normal distribution, all but 2e-9 lies within so many standard deviations.
_SIGMAS = 6.0


def distribution(
    *,
    low: float | None = None,
    high: float | None = None,
    normal: tuple[float, float] | None = None,
    density: tuple[Any, Any] | None = None,
) -> tuple[Array, Array]:
    """Bin edges ``[B + 1]`` and probabilities ``[B]`` of an input distribution.

    Args:
        low, high: a uniform distribution between them.
        normal: mean and standard deviation of a normal distribution.
        density: bin edges ``[B + 1]`` and weights ``[B]`` of a histogram.

    Raises:
        FitError: unless exactly one of the three is given, and makes sense.
    """
    given = [low is not None or high is not None, normal is not None, density is not None]
    if sum(given) != 1:
        raise FitError("say what the inputs look like: low= and high=, or normal=, or density=")
    if density is not None:
        edges, weights = (np.asarray(part, np.float64).ravel() for part in density)
        total = weights.sum()
        if not np.isfinite(total) or total <= 0:
            raise FitError("density= needs finite weights with a positive sum")
        return edges, weights / total
    if normal is not None:
        mean, std = map(float, normal)
        if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
            raise FitError(f"normal= needs a finite mean and a deviation > 0, found {normal}")
        z = np.linspace(-_SIGMAS, _SIGMAS, _BINS + 1)
        weights = np.diff([0.5 * (1 + erf(value / sqrt(2))) for value in z])
        return mean + std * z, weights / weights.sum()
    if low is None or high is None or not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise FitError(f"low= and high= must be finite with low < high, found {low} and {high}")
    return np.linspace(low, high, _BINS + 1), np.full(_BINS, 1.0 / _BINS)


def problem_of(
    function: Callable[[Tensor], Tensor],
    edges: Array,
    weights: Array,
    steps: int,
    name: str = "",
    spike_cost: float = 0.0,
) -> Problem:
    """What a neuron is fitted to, for a function of tensors.

    Raises:
        FitError: if the function isn't elementwise, fails, or isn't finite in the range.
    """
    label = name or getattr(function, "__name__", type(function).__name__)
    centres = torch.from_numpy(0.5 * (edges[:-1] + edges[1:]))
    try:
        with torch.no_grad():
            values = function(centres)
    except Exception as error:
        raise FitError(
            f"{label} can't be evaluated on a float64 tensor of shape {list(centres.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(values, Tensor) or values.shape != centres.shape:
        found = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise FitError(
            f"{label} of a tensor of shape {list(centres.shape)} gives {found}; give an "
            "elementwise function"
        )
    return Problem(
        edges, weights, values.double().numpy(), steps, label, label, spike_cost=spike_cost
    )


def fit_solution(
    function: Callable[[Tensor], Tensor],
    steps: int | Sequence[int],
    *,
    low: float | None = None,
    high: float | None = None,
    normal: tuple[float, float] | None = None,
    density: tuple[Any, Any] | None = None,
    method: str = DEFAULT,
    seed: int = 0,
    effort: str = "normal",
    spike_cost: float = 0.0,
    progress: bool = False,
) -> list[tuple[Problem, Solution]]:
    """As `fit`, for one or several numbers of steps, with the problem and the figures."""
    edges, weights = distribution(low=low, high=high, normal=normal, density=density)
    wanted = list(steps) if isinstance(steps, Sequence) else [steps]
    if spike_cost != 0 and method != "tbpi-exact":
        raise FitError(f"spike_cost= needs method='tbpi-exact'; {method!r} can't heed it")
    problems = [problem_of(function, edges, weights, k, spike_cost=spike_cost) for k in wanted]
    sweeps = [problems] if method in SWEEPS else [[p] for p in problems]
    found = [
        solution
        for sweep in sweeps
        for solution in fit_problems(sweep, method, seed=seed, effort=effort, progress=progress)
    ]
    return list(zip(problems, found, strict=True))


def fit(
    function: Callable[[Tensor], Tensor],
    *,
    low: float | None = None,
    high: float | None = None,
    normal: tuple[float, float] | None = None,
    density: tuple[Any, Any] | None = None,
    steps: int = 8,
    method: str = DEFAULT,
    seed: int = 0,
    effort: str = "normal",
    spike_cost: float = 0.0,
    progress: bool = False,
) -> FewSpikesNeuron:
    """A few-spikes neuron for a function under an input distribution.

    Args:
        function: elementwise function of a float64 tensor.
        low, high: ends of a uniform distribution; or
        normal: mean and standard deviation of a normal distribution; or
        density: bin edges ``[B + 1]`` and weights ``[B]``.
        steps: K.
        method: see `convert.fitting.methods.METHODS`.
        seed: of everything random.
        effort: ``"normal"``, or ``"high"`` for about ten times the work.
        spike_cost: squared error that one spike fewer is worth, >= 0.
        progress: shows a bar on stderr.

    Raises:
        FitError: for a distribution or function that can't be fitted.
    """
    ((problem, solution),) = fit_solution(
        function,
        steps,
        low=low,
        high=high,
        normal=normal,
        density=density,
        method=method,
        seed=seed,
        effort=effort,
        spike_cost=spike_cost,
        progress=progress,
    )
    neuron = FewSpikesNeuron(
        solution.thresholds, solution.resets, solution.weights, solution.offset
    )
    neuron.set_missing_means(
        torch.from_numpy(problem.centres).float(), torch.from_numpy(problem.weights)
    )
    return neuron
