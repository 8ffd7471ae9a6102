"""How good a fit is, on fresh points of the distribution rather than on the fitting grid."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..common.files import atomic_path
from .activation import fit_solutions
from .distributions import Density, distribution, fresh_points
from .functions import Function
from .methods import DEFAULT, METHODS, check
from .problem import Array, Problem, Solution


@dataclass(frozen=True, eq=False)
class Fit:
    """One measured fit.

    Args:
        steps: K.
        solution: the neuron's parameters.
        edges: bin edges of the input distribution.
        mse, relative_mse: on fresh points; relative to the variance of f there.
        worst: largest error there.
        spikes: mean number of events of one input: spikes, and with gates the constants.
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
            "gates": s.gates.tolist(),
            "T": s.thresholds.tolist(),
            "h": s.resets.tolist(),
            "d": s.weights.tolist(),
            "y0": s.offset if isinstance(s.offset, float) else s.offset.tolist(),
        }


def measure(
    function: Function,
    steps: Sequence[int],
    *,
    low: float | None = None,
    high: float | None = None,
    normal: tuple[float, float] | None = None,
    density: Density | None = None,
    method: str = DEFAULT,
    effort: str = "normal",
    spike_cost: float = 0.0,
    gates: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> list[Fit]:
    """Fits for every K and measures each on `FRESH_POINTS` points.

    Args:
        function: elementwise function of a float64 tensor.
        steps: every K.
        low, high, normal, density: the input distribution, see `convert.fit`.
        method, effort, spike_cost, gates, seed, progress: see `convert.fit`.

    Raises:
        FitError: for a distribution or function that can't be fitted.
    """
    given: dict[str, Any] = {"low": low, "high": high, "normal": normal, "density": density}
    check(method, effort, seed)
    edges, weights = distribution(**given)
    points = fresh_points(edges, weights, normal)
    with torch.no_grad():
        exact = function(torch.from_numpy(points)).double().numpy()
    variance = float(exact.var())
    fits: list[Fit] = []
    sweeps = [list(steps)] if METHODS[method].sweeps else [[k] for k in steps]
    solved: dict[int, tuple[Solution, float]] = {}
    for sweep in sweeps:
        begin = time.perf_counter()
        found = fit_solutions(
            function,
            sweep,
            **given,
            method=method,
            effort=effort,
            seed=seed,
            spike_cost=spike_cost,
            gates=gates,
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


def rows_to_json(fits: Sequence[Fit], path: str | os.PathLike[str]) -> None:
    """Writes the list of fits, whole or not at all."""
    text = json.dumps([fit.to_dict() for fit in fits], indent=1, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
