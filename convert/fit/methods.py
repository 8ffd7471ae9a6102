"""The methods by name. To add one: a module with `solve`, and a line in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import FitError
from . import binary, tbpi, tbpi_exact
from .problem import Problem, Solution

METHODS: dict[str, Callable[..., list[Solution]]] = {
    "tbpi-exact": tbpi_exact.solve,
    "tbpi": tbpi.solve,
    "binary": binary.solve,
}
DEFAULT = "tbpi-exact"
# Fit every K of a function at once, each from the last, so that the error never rises with K.
SWEEPS = ("tbpi-exact",)
EFFORTS = ("normal", "high")


def check(method: str, effort: str = "normal") -> None:
    """Refuses a method or an effort that doesn't exist.

    Raises:
        FitError: naming those that do.
    """
    if method not in METHODS:
        raise FitError(f"no method is called {method!r}; choose from {', '.join(METHODS)}")
    if effort not in EFFORTS:
        raise FitError(f"effort must be one of {', '.join(EFFORTS)}, found {effort!r}")


def fit_problems(
    problems: Sequence[Problem],
    method: str = DEFAULT,
    *,
    seed: int = 0,
    effort: str = "normal",
    progress: bool = False,
) -> list[Solution]:
    """Fits every problem; sites whose function is constant on their data need no method.

    Args:
        problems: functions, input distributions and numbers of steps.
        method: a key of `METHODS`.
        seed: of everything random; the same seed gives the same result on one machine.
        effort: ``"high"`` spends about ten times the work.
        progress: shows a bar on stderr.

    Raises:
        FitError: for an unknown method, or one that can't fit a problem.
    """
    check(method, effort)
    result: list[Solution | None] = [_constant(problem) for problem in problems]
    open_problems = [p for p, solution in zip(problems, result, strict=True) if solution is None]
    if open_problems:
        solved = iter(METHODS[method](open_problems, seed=seed, effort=effort, progress=progress))
        result = [next(solved) if solution is None else solution for solution in result]
    return [solution for solution in result if solution is not None]


def _constant(problem: Problem) -> Solution | None:
    """A neuron for a function with one value: it never fires."""
    values = problem.values[problem.weights > 0]
    if np.ptp(values) > 0:
        return None
    above = np.full(problem.steps, problem.high + (problem.high - problem.low))
    silent = np.zeros(problem.steps)
    return Solution(above, silent, silent, float(values[0]), 0.0, "binary")
