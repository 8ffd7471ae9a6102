"""Fits whose output weights are whole: powers of two, or small integers, of one unit."""

import numpy as np
import pytest

from convert.fitting.methods import fit_problems
from convert.fitting.problem import Problem, Solution
from convert.fitting.whole_weights import Whole, error_on, fit_whole


def _silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-x)))


def _problem(kind: str, steps: int, gates: int = 0) -> Problem:
    edges = np.linspace(-6.0, 8.0, 1025)
    x = 0.5 * (edges[1:] + edges[:-1])
    p = np.exp(-0.5 * (x / 2.0) ** 2)
    f = np.maximum(x, 0) if kind == "relu" else _silu(x)
    return Problem(edges, p / p.sum(), f, steps, gates=gates, offset=kind != "relu")


def _given(problem: Problem, method: str) -> Solution:
    return fit_problems([problem], method, seed=0, effort="normal", shared=False)[0]


def _powers(weights: np.ndarray) -> bool:
    size = np.abs(weights)
    return bool((weights != 0).any() and ((size & (size - 1)) == 0).all())


def test_the_binary_table_of_a_ramp_stays() -> None:
    problem = _problem("relu", 6)
    given = _given(problem, "binary")
    found = fit_whole(problem, given, Whole.POWERS)
    assert found.weights.tolist() == [[32, 16, 8, 4, 2, 1]] and found.offsets.tolist() == [0]
    assert found.mse <= found.free_mse * (1 + 1e-3)


@pytest.mark.parametrize("whole", list(Whole))
def test_a_curve_is_fitted_and_not_rounded(whole: Whole) -> None:
    problem = _problem("silu", 6)
    given = _given(problem, "tbpi-exact")
    found = fit_whole(problem, given, whole)
    # What the table says of itself is what its numbers give.
    assert found.mse == pytest.approx(error_on(problem, found.solution()))
    assert found.mse <= found.rounded_mse
    assert found.mse < (1.3 if whole is Whole.POWERS else 1.05) * found.free_mse
    if whole is Whole.POWERS:
        assert _powers(found.weights) and found.mse < 0.7 * found.rounded_mse
    else:
        common = np.gcd.reduce(found.weights.ravel())
        assert int(np.abs(found.weights // common).max()) <= 255


def test_tables_between_gates_share_a_unit() -> None:
    problem = _problem("silu", 3, gates=2)
    given = _given(problem, "binary")
    found = fit_whole(problem, given, Whole.POWERS)
    assert found.weights.shape == (3, 3) and len(found.gates) == 2
    assert all(_powers(row) for row in found.weights)
    assert found.mse < found.rounded_mse and found.mse < 2 * found.free_mse
    assert set(found.gates) <= set(problem.edges)


def test_intervals_without_values_are_left_out() -> None:
    problem = _problem("silu", 3, gates=2)
    given = _given(problem, "binary")
    beyond = Solution(
        given.thresholds, given.resets, given.weights, given.offset, 0.0, "moved",
        gates=np.array([given.gates[0], 9.0]),
    )  # fmt: skip
    found = fit_whole(problem, beyond, Whole.POWERS)
    assert found.weights.shape == (2, 3) and len(found.gates) == 1


def test_the_base_of_a_problem_is_part_of_what_comes_back() -> None:
    problem = _problem("silu", 5)
    given = _given(problem, "binary")
    lowered = Problem(
        problem.edges, problem.weights, problem.values + 0.5, 5, offset=False, base=-0.5
    )
    found = fit_whole(lowered, given, Whole.POWERS)
    assert found.offsets[0] * found.unit == pytest.approx(-0.5, abs=found.unit / 2)
    assert found.mse == pytest.approx(error_on(lowered, found.solution()))


def test_nothing_is_near_but_whole_numbers() -> None:
    x = np.array([0.0, 0.2, 1.4, 1.6, -2.9, -3.1, 700.0])
    assert Whole.POWERS.nearest(x, 6).tolist() == [0, 1, 1, 2, -2, -4, 64]
    assert Whole.INTEGERS.nearest(x, 6).tolist() == [0, 1, 1, 2, -3, -3, 255]
