"""Fit methods: added, used, taken out; what is no K is refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import convert
from convert.errors import FitError
from convert.fitting.measure import measure
from convert.fitting.methods import METHODS, register_method, unregister_method
from convert.fitting.problem import MOST_STEPS, Problem, Solution, Start, check_steps


def _one_level(problems: Sequence[Problem], **_: Any) -> list[Solution]:
    """One step in the middle of the range; the others never fire."""
    result = []
    for p in problems:
        T = np.full(p.steps, 2 * p.high - p.low)
        T[0] = 0.5 * (p.low + p.high)
        d = np.zeros(p.steps)
        d[0] = 7.0
        result.append(Solution(T, 0 * T, d, 0.0, 1.0, Start.GROWN))
    return result


def test_a_method_is_added_used_and_taken_out() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.SiLU(), torch.nn.Linear(4, 2))
    x = torch.randn(32, 3)
    register_method("one level", _one_level)
    try:
        assert "one level" in METHODS
        snn = convert.to_spiking(model.eval(), x, steps=3, method="one level", progress=False)
        (neuron,) = snn.sites.values()
        assert neuron.weights.tolist() == [7.0, 0.0, 0.0]
        assert snn.report is not None and snn.report.sites[0].start == "grown"
        with pytest.raises(FitError, match="'one level' already"):
            register_method("one level", _one_level)
    finally:
        unregister_method("one level")
    with pytest.raises(FitError, match="no method is called 'one level'"):
        convert.to_spiking(model, x, steps=3, method="one level", progress=False)
    with pytest.raises(FitError, match="no method is called 'one level'"):
        unregister_method("one level")


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(FitError, match="already"):
        register_method("binary", _one_level)
    with pytest.raises(FitError, match="must be a function, found 3"):
        register_method("three", 3)  # type: ignore[arg-type]
    with pytest.raises(FitError, match="must be a text"):
        register_method("", _one_level)
    with pytest.raises(TypeError):
        METHODS["mine"] = METHODS["binary"]  # type: ignore[index]
    assert "mine" not in METHODS and "three" not in METHODS


def test_a_method_that_loses_a_problem_is_told() -> None:
    register_method("short", lambda problems, **_: [])
    try:
        with pytest.raises(FitError, match="gave 0 solutions for 1 problems"):
            convert.fit(F.silu, low=-1.0, high=1.0, steps=2, method="short")
    finally:
        unregister_method("short")


@pytest.mark.parametrize("steps", [0, -1, 64, 2.5, 8.0, True, "8", [2, 3], (4,), None])
def test_what_is_no_number_of_steps_is_named(steps: Any) -> None:
    with pytest.raises(FitError, match="one whole number K from 1 to 63, found") as caught:
        convert.fit(F.silu, low=-1.0, high=1.0, steps=steps, method="binary")
    assert "\n" not in str(caught.value) and repr(steps) in str(caught.value)
    with pytest.raises(FitError, match="found"):
        measure(F.silu, [2, steps], low=-1.0, high=1.0, method="binary")
    with pytest.raises(FitError, match="found"):
        Problem(np.arange(3.0), np.full(2, 0.5), np.arange(2.0), steps)


@pytest.mark.parametrize("function", [F.relu, F.silu])
def test_the_most_steps_work(function: Any) -> None:
    check_steps(np.int64(MOST_STEPS))
    for method in ("binary", "tbpi-exact") if function is F.relu else ("binary",):
        neuron = convert.fit(function, low=-1.0, high=2.0, steps=MOST_STEPS, method=method)
        few = convert.fit(function, low=-1.0, high=2.0, steps=12, method="binary")
        x = torch.linspace(-1, 2, 999)
        errors = [float((n(x) - function(x)).pow(2).mean()) for n in (neuron, few)]
        assert neuron.steps == MOST_STEPS and errors[0] <= 1.01 * errors[1] + 1e-9


def test_a_start_is_a_text() -> None:
    assert Start.LIBRARY == "library" and f"{Start.TBPI}" == "tbpi"
    known = {"tbpi", "random", "binary", "library", "grown", "stairs", "digits"}
    assert {str(start) for start in Start} == known
