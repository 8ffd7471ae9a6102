"""The methods by name. To add one: a module with `solve`, and a line in `METHODS`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral

import numpy as np
from tqdm import tqdm

from ..errors import FitError
from . import binary, tbpi, tbpi_exact
from .problem import Problem, Solution

METHODS: dict[str, Callable[..., list[Solution]]] = {
    "tbpi-exact": tbpi_exact.solve,
    "tbpi": tbpi.solve,
    "random": tbpi.solve_random,
    "random-best": partial(tbpi.solve_random, best=True),
    "binary": binary.solve,
}
DEFAULT = "tbpi-exact"
# Fit every K of a function at once, each from the last, so that the error never rises with K.
SWEEPS = ("tbpi-exact",)
EFFORTS = ("normal", "high")


def check(method: str, effort: str = "normal", seed: int = 0) -> None:
    """Refuses a method or an effort that doesn't exist, and what is no seed.

    Raises:
        FitError: naming those that do.
    """
    if method not in METHODS:
        raise FitError(f"no method is called {method!r}; choose from {', '.join(METHODS)}")
    if effort not in EFFORTS:
        raise FitError(f"effort must be one of {', '.join(EFFORTS)}, found {effort!r}")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise FitError(f"a seed must be a whole number >= 0, found {seed!r}")


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
    check(method, effort, seed)
    result: list[Solution | None] = [_constant(problem) for problem in problems]
    open_problems = [p for p, solution in zip(problems, result, strict=True) if solution is None]
    if open_problems:
        solved = iter(METHODS[method](open_problems, seed=seed, effort=effort, progress=progress))
        result = [next(solved) if solution is None else solution for solution in result]
    return [solution for solution in result if solution is not None]


def warm_up(method: str = DEFAULT, progress: bool = False) -> float:
    """Compiles what a method runs, so that compilation isn't in the time of a fit; seconds taken.

    The compiled code is kept on disk, so only a first use after an installation is slow.
    """
    begin = time.perf_counter()
    edges = np.linspace(-2.0, 2.0, 65)
    x = 0.5 * (edges[:-1] + edges[1:])
    even = np.full(64, 1 / 64)
    curves = [Problem(edges, even, np.tanh(x), 3), Problem(edges, even, np.maximum(x, 0.0), 3)]
    with tqdm(total=1, desc="compile", disable=None if progress else True) as bar:
        fit_problems(curves, method)
        bar.update()
    return time.perf_counter() - begin


def _constant(problem: Problem) -> Solution | None:
    """A neuron for a function with one value: it never fires."""
    values = problem.values[problem.weights > 0]
    if np.ptp(values) > 0:
        return None
    above = np.full(problem.steps, problem.high + (problem.high - problem.low))
    silent = np.zeros(problem.steps)
    return Solution(above, silent, silent, float(values[0]), 0.0, "binary")
