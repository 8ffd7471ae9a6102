"""Machine code is made for the problems at hand, once, and for the types that a fit passes."""

import numpy as np
import pytest

from convert.fitting import compilation
from convert.fitting.exact_error import errors_of, loss
from convert.fitting.grow import grow
from convert.fitting.methods import METHODS, fit_problems, warm_up
from convert.fitting.newton import descend
from convert.fitting.problem import Problem
from convert.fitting.surrogate_training import train

_EDGES = np.linspace(-1.0, 1.0, 65)
_X = 0.5 * (_EDGES[1:] + _EDGES[:-1])
_RAMP = Problem(_EDGES, np.full(64, 1 / 64), np.maximum(_X, 0.0), 2)
_CURVE = Problem(_EDGES, np.full(64, 1 / 64), np.tanh(_X), 2)


def test_a_fit_needs_nothing_more_than_was_compiled() -> None:
    warm_up("tbpi-exact")
    # Other tests of this process may have passed other types.
    compiled = {f: len(f.signatures) for f in (train, descend, loss, errors_of, grow)}
    assert all(compiled.values())
    fit_problems([_CURVE, _RAMP], "tbpi-exact", shared=True)
    for function, count in compiled.items():
        assert len(function.signatures) == count, function


def test_only_what_the_problems_need(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in ("_training", "_descent", "_search"):
        monkeypatch.setattr(compilation, name, lambda name=name: made.append(name))
    needs = {
        ("tbpi-exact", "ramp"): ["_descent"],
        ("tbpi-exact", "curve"): ["_training", "_search"],
        ("tbpi-exact", "none"): [],
        ("tbpi", "curve"): ["_training"],
        ("random", "ramp"): ["_training"],
        ("binary", "curve"): [],
    }
    problems = {"ramp": [_RAMP], "curve": [_CURVE], "none": []}
    for (method, kind), expected in needs.items():
        made.clear()
        METHODS[method].compiles(problems[kind])
        assert made == expected


def test_a_second_time_costs_nothing() -> None:
    warm_up()
    assert warm_up() < 0.05
