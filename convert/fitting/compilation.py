"""Compiles, or loads from disk, the machine code of a fit before the fit is timed.

Each function is called once in a process, on the least input, and only if a problem needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from ..common.progress import Progress
from .exact_error import errors_of, loss, scratch
from .grow import Search, grow
from .newton import descend
from .problem import Array, Problem
from .ramp import ramp_of
from .scaled import Scaled
from .surrogate_training import BLOCK, train


def nothing(problems: Sequence[Problem]) -> None:
    """For methods without compiled code."""


def training(problems: Sequence[Problem]) -> None:
    """What the gradient's training runs."""
    if problems:
        _training()


def exact(problems: Sequence[Problem]) -> None:
    """What the refinement runs: less for ramps than for curves."""
    ramps = [ramp_of(problem) is not None for problem in problems]
    # The tables of a curve's intervals descend again as gates move.
    if any(ramps) or any(problem.gates for problem in problems):
        _descent()
    if not all(ramps):
        _training()
        _search()


def timed(
    compiles: Callable[[Sequence[Problem]], None],
    problems: Sequence[Problem] | None,
    progress: bool,
) -> float:
    """Runs one of the above and returns the seconds it took.

    Args:
        compiles: one of the above.
        problems: what will be fitted; a curve and a ramp if None.
        progress: shows a bar on stderr.
    """
    begin = time.perf_counter()
    with Progress[None](title="compile", total=1, shown=progress) as bar:
        compiles([_least(np.tanh), _least(_relu)] if problems is None else problems)
        bar.update()
    return time.perf_counter() - begin


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def _least(function: Callable[[Array], Array]) -> Problem:
    edges = np.linspace(-1.0, 1.0, 9)
    return Problem(edges, np.full(8, 1 / 8), function(0.5 * (edges[:-1] + edges[1:])), 1)


@cache
def _training() -> None:
    points = np.zeros(BLOCK, np.float32)
    train(points, points, points, np.ones((3, 1)), 1, 1e-3, 1e-3, 1.0)


@cache
def _descent() -> None:
    target = Scaled.of(_least(_relu)).target(False, 0.0)
    descend(np.full(1, 0.5), np.zeros(1), np.empty(2), target, 1, scratch())


@cache
def _search() -> None:
    target = Scaled.of(_least(np.tanh)).target(False, 0.0)
    tables = np.zeros((1, 2, 1))
    errors_of(tables, target, scratch())
    loss(tables[0, 0], tables[0, 1], target, scratch(), np.empty((2, 2)), np.empty(2))
    search, state = Search(1, 0, 1, 1, 1), np.ones(1, np.uint64)
    grow(np.empty((0, 2, 0)), tables, target, search, scratch(), state)
