"""The fit methods by name, and the one way to run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from types import MappingProxyType
from typing import Protocol

import numpy as np

from ..errors import FitError
from . import binary, compilation, gated, tbpi, tbpi_exact
from .problem import Problem, Solution, Start
from .stairs import LOWEST, exact, nearest


class Solve(Protocol):
    """How a method is called; see `register_method`."""

    def __call__(
        self,
        problems: Sequence[Problem],
        *,
        seed: int,
        effort: str,
        shared: bool,
        progress: bool,
    ) -> list[Solution]: ...


Compile = Callable[[Sequence[Problem]], None]


@dataclass(frozen=True)
class Method:
    """A fit method; the arguments are those of `register_method`."""

    solve: Solve
    sweeps: bool = False
    spike_cost: bool = False
    compiles: Compile = compilation.nothing
    refine: gated.Refine | None = None


_methods: dict[str, Method] = {}
# The methods by name, to be read; `register_method` adds to it.
METHODS: Mapping[str, Method] = MappingProxyType(_methods)
DEFAULT = "tbpi-exact"
EFFORTS = ("normal", "high")


def register_method(
    name: str,
    solve: Solve,
    *,
    sweeps: bool = False,
    spike_cost: bool = False,
    compiles: Compile = compilation.nothing,
    refine: gated.Refine | None = None,
) -> None:
    """Adds a fit method: every ``method=`` then takes its name.

    A method is a function from problems to solutions, one each, in their order::

        from convert import register_method, to_spiking

        def levels(problems, *, seed, effort, shared, progress):
            return [equal_levels(problem) for problem in problems]

        register_method("levels", levels)
        snn = to_spiking(model, images, method="levels")

    `problems` are `convert.fitting.problem.Problem`: bin edges, weights and values of f, and K
    (`steps`); none of them has a constant f, or is a staircase that K steps give exactly. A
    `Solution` has T, h and d of K numbers each, y0,
    the mean squared error under the problem's distribution, and a `Start`. `seed` is of everything
    random, `effort` one of `EFFORTS`, `shared` says that the problems are a network's sites, of
    which each should get less work than a function that is fitted alone, and `progress` that a
    bar may be shown on stderr. A problem's solution must not depend on which other K are asked for.

    Args:
        name: a new one.
        solve: the function.
        sweeps: it is quicker with every K of a function in one call than with one after the other.
        spike_cost: it heeds `Problem.spike_cost`.
        compiles: called with the problems before the fit is timed; it may compile what they need.
        refine: improves a table, given a problem that differs a little from its own; a neuron's
            tables then follow its gates as these move.

    Raises:
        FitError: if there is a method of that name, or it is no text.
    """
    if not isinstance(name, str) or not name:
        raise FitError(f"a method's name must be a text, found {name!r}")
    if name in _methods:
        raise FitError(f"there is a method called {name!r} already; choose another name")
    if not callable(solve):
        raise FitError(f"method {name!r}: solve must be a function, found {solve!r}")
    _methods[name] = Method(solve, sweeps, spike_cost, compiles, refine)


def unregister_method(name: str) -> None:
    """Takes a method out again.

    Args:
        name: as it was registered.

    Raises:
        FitError: naming the methods that there are.
    """
    check(name)
    del _methods[name]


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
    shared: bool = False,
    progress: bool = False,
) -> list[Solution]:
    """Fits every problem; constant functions and staircases of few jumps need no method.

    A problem's solution doesn't depend on which other K are asked for. Sites of one function
    learn from each other, in the order in which they first appear.

    Args:
        problems: functions, input distributions and numbers of steps.
        method: a key of `METHODS`.
        seed: of everything random; the same seed gives the same result on one machine.
        effort: ``"high"`` spends about ten times the work.
        shared: the problems are a network's sites, each of which gets less work than a function
            that is fitted alone.
        progress: shows a bar on stderr.

    Raises:
        FitError: for an unknown method, or one that can't fit a problem.
    """
    check(method, effort, seed)
    chosen = METHODS[method]

    def plain(problems: Sequence[Problem], shared: bool = shared) -> list[Solution]:
        return _plain(problems, chosen.solve, method, seed, effort, shared, progress)

    divided = [i for i, p in enumerate(problems) if p.gates and not (exact(p) or _constant(p))]
    whole = [i for i in range(len(problems)) if i not in set(divided)]
    found = dict(zip(whole, plain([problems[i] for i in whole]), strict=True))
    if divided:
        # The tables of one neuron get the work of a network's sites.
        solutions = gated.solve(
            [problems[i] for i in divided],
            plain,
            partial(plain, shared=True),
            chosen.refine or (lambda _, solution: solution),
            thorough=not shared,
        )
        found |= dict(zip(divided, solutions, strict=True))
    return [found[i] for i in range(len(problems))]


def _plain(
    problems: Sequence[Problem],
    solve: Solve,
    method: str,
    seed: int,
    effort: str,
    shared: bool,
    progress: bool,
) -> list[Solution]:
    """Fits problems without gates; staircases and constants need no method."""
    result: list[Solution | None] = [exact(p) or _constant(p) for p in problems]
    open_problems = [p for p, solution in zip(problems, result, strict=True) if solution is None]
    if open_problems:
        found = solve(open_problems, seed=seed, effort=effort, shared=shared, progress=progress)
        if len(found) != len(open_problems):
            raise FitError(
                f"method {method!r} gave {len(found)} solutions for {len(open_problems)} problems; "
                "it must give one each"
            )
        solved = iter(map(nearest, open_problems, found))
        result = [next(solved) if solution is None else solution for solution in result]
    return [solution for solution in result if solution is not None]


def warm_up(
    method: str = DEFAULT, problems: Sequence[Problem] | None = None, progress: bool = False
) -> float:
    """Compiles what a method runs, so that compilation isn't in the time of a fit; seconds taken.

    The compiled code is kept on disk, so only a first use after an installation is slow.

    Args:
        method: a key of `METHODS`.
        problems: what will be fitted; a ramp and a curve if None.
        progress: shows a bar on stderr.
    """
    check(method)
    return compilation.timed(METHODS[method].compiles, problems, progress)


def _constant(problem: Problem) -> Solution | None:
    """A neuron for a function with one value: it never fires."""
    values = problem.values[problem.weights > 0]
    if np.ptp(values) > 0:
        return None
    above = np.full(problem.steps, problem.high + (problem.high - problem.low))
    silent = np.zeros(problem.steps)
    if problem.masked and values[0] != 0:
        # y0 is what -inf gives, so a step that every number exceeds gives the value.
        first = np.eye(1, problem.steps)[0]
        T = np.where(first > 0, LOWEST, above)
        return Solution(T, silent, values[0] * first, 0.0, 0.0, Start.BINARY)
    return Solution(above, silent, silent, float(values[0]), 0.0, Start.BINARY)


register_method(
    DEFAULT,
    tbpi_exact.solve,
    sweeps=True,
    spike_cost=True,
    compiles=compilation.exact,
    refine=tbpi_exact.refine,
)
register_method("tbpi", tbpi.solve, compiles=compilation.training)
register_method("random", tbpi.solve_random, compiles=compilation.training)
register_method("random-best", partial(tbpi.solve_random, best=True), compiles=compilation.training)
register_method("binary", binary.solve)
_OWN = dict(_methods)


def is_own(method: str) -> bool:
    """Whether a method is the package's own, of whose code is known whether it changed.

    Args:
        method: its name.
    """
    return method in _OWN and _methods.get(method) is _OWN[method]
