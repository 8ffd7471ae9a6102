"""How good a fit is, on fresh points of the distribution rather than on the fitting grid."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.files import atomic_path
from ..errors import FitError
from .activation import distribution, fit_solution
from .methods import DEFAULT, SWEEPS
from .problem import Array, Problem, Solution

FRESH_POINTS = 400_000


@dataclass(frozen=True, eq=False)
class Fit:
    """One measured fit.

    Args:
        steps: K.
        solution: the neuron's parameters.
        edges: bin edges of the input distribution.
        mse, relative_mse: on fresh points; relative to the variance of f there.
        worst: largest error there.
        spikes: mean number of spikes of one input.
        seconds: time of the fit; in a sweep over K, what this K took beyond the smaller ones.
        start: which start won.
    """

    steps: int
    solution: Solution
    edges: Array
    mse: float
    relative_mse: float
    worst: float
    spikes: float
    seconds: float
    start: str

    def to_dict(self) -> dict[str, Any]:
        """The keys that fit_activation.py writes."""
        s = self.solution
        return {
            "steps": self.steps,
            "mse": self.mse,
            "spikes": self.spikes,
            "seconds": self.seconds,
            "start": self.start,
            "T": s.thresholds.tolist(),
            "h": s.resets.tolist(),
            "d": s.weights.tolist(),
            "y0": s.offset,
        }


def function_named(name: str) -> Callable[[Tensor], Tensor]:
    """An elementwise function of torch.nn.functional or torch.

    Raises:
        FitError: if there is none with that name.
    """
    for module in (F, torch):
        found = getattr(module, name, None)
        if callable(found) and not inspect.isclass(found) and not name.startswith("_"):
            return found
    known = [n for n in dir(F) + dir(torch) if n.islower() and not n.startswith("_")]
    near = get_close_matches(name, known, 3, 0.5) or ["silu", "gelu", "sigmoid"]
    raise FitError(f"torch has no function {name!r}; did you mean {', '.join(near)}?")


def measure(
    function: Callable[[Tensor], Tensor],
    steps: Sequence[int],
    *,
    low: float | None = None,
    high: float | None = None,
    normal: tuple[float, float] | None = None,
    density: tuple[Any, Any] | None = None,
    method: str = DEFAULT,
    effort: str = "normal",
    spike_cost: float = 0.0,
    seed: int = 0,
    progress: bool = False,
) -> list[Fit]:
    """Fits for every K and measures each on `FRESH_POINTS` points.

    Args:
        function: elementwise function of a float64 tensor.
        steps: every K.
        low, high, normal, density: the input distribution, see `convert.fit`.
        method, effort, spike_cost, seed, progress: see `convert.fit`.

    Raises:
        FitError: for a distribution or function that can't be fitted.
    """
    given: dict[str, Any] = {"low": low, "high": high, "normal": normal, "density": density}
    edges, weights = distribution(**given)
    points = fresh_points(edges, weights, normal)
    with torch.no_grad():
        exact = function(torch.from_numpy(points)).double().numpy()
    variance = float(exact.var())
    fits: list[Fit] = []
    sweeps = [list(steps)] if method in SWEEPS else [[k] for k in steps]
    solved: dict[int, tuple[Solution, float]] = {}
    for sweep in sweeps:
        begin = time.perf_counter()
        found = fit_solution(
            function,
            sweep,
            **given,
            method=method,
            effort=effort,
            seed=seed,
            spike_cost=spike_cost,
            progress=progress,
        )
        solved |= _timed(found, time.perf_counter() - begin)
    for k in steps:
        solution, seconds = solved[k]
        y, spikes = solution.run(points)
        error = y - exact
        mse = float(np.mean(error**2))
        relative = mse / variance if variance > 0 else 0.0
        worst = float(np.abs(error).max())
        mean_spikes = float(spikes.mean())
        fits.append(
            Fit(k, solution, edges, mse, relative, worst, mean_spikes, seconds, solution.start)
        )
    return fits


def _timed(
    found: Sequence[tuple[Problem, Solution]], seconds: float
) -> dict[int, tuple[Solution, float]]:
    """Each K's own share of a sweep's time: what it took beyond the smaller ones."""
    result, before = {}, 0.0
    for problem, solution in sorted(found, key=lambda pair: pair[0].steps):
        result[problem.steps] = solution, max(solution.seconds - before, 0.0)
        before = max(before, solution.seconds)
    last = max(result)
    solution, own = result[last]
    result[last] = solution, own + seconds - before
    return result


def fresh_points(
    edges: Array, weights: Array, normal: tuple[float, float] | None = None, count: int = 0
) -> Array:
    """Points of a distribution, float64 ``[count]``: quantiles with a random shift in each.

    The seed differs from any that a fit uses. A normal distribution is drawn as it is, its far
    tails included.
    """
    count = count or FRESH_POINTS
    generator = np.random.default_rng([count, 0xF5])
    if normal is not None:
        return np.asarray(generator.normal(*normal, count))
    u = (np.arange(count) + generator.random(count)) / count
    total = np.concatenate([[0.0], np.cumsum(weights)])
    bins = np.clip(np.searchsorted(total, u * total[-1], side="right") - 1, 0, len(weights) - 1)
    inside = (u * total[-1] - total[bins]) / np.where(weights[bins] > 0, weights[bins], 1.0)
    return np.asarray(edges[bins] + np.clip(inside, 0.0, 1.0) * np.diff(edges)[bins])


def rows_to_json(fits: Sequence[Fit], path: str | os.PathLike[str]) -> None:
    """Writes the list of fits, whole or not at all."""
    text = json.dumps([fit.to_dict() for fit in fits], indent=1, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
