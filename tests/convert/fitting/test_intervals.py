"""Where gates lie: the estimate against brute force, and problems that are divided."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.fitting.intervals import Estimate, divide
from convert.fitting.jumps import find_jumps
from convert.fitting.problem import Array, Problem


def _problem(bins: int, seed: int, steps: int = 3) -> Problem:
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.random(bins + 1) + 0.01)
    weights = rng.random(bins) + 0.01
    return Problem(edges, weights / weights.sum(), rng.normal(size=bins), steps)


def _line(x: Array, f: Array, p: Array) -> float:
    """Squared error of the best line, by least squares."""
    A = np.stack([x - x.mean(), np.ones_like(x)], 1) * np.sqrt(p)[:, None]
    best = np.linalg.lstsq(A, f * np.sqrt(p), rcond=None)[0]
    return float(np.square(A @ best - f * np.sqrt(p)).sum())


@settings(max_examples=15)
@given(st.integers(2, 9), st.integers(0, 999))
def test_lines_are_those_of_least_squares(bins: int, seed: int) -> None:
    problem = _problem(bins, seed)
    found = Estimate(problem)._lines()
    for i, j in combinations(range(bins + 1), 2):
        part = slice(i, j)
        expected = _line(problem.centres[part], problem.values[part], problem.weights[part])
        assert found[i, j] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=15)
@given(st.integers(2, 9), st.integers(1, 4), st.integers(1, 12), st.integers(0, 999))
def test_the_best_of_all_gates(bins: int, count: int, steps: int, seed: int) -> None:
    problem = _problem(bins, seed, steps)
    estimate = Estimate(problem)
    found = estimate.gates(count)
    count = min(count, bins - 1)
    assert len(found) == count and found == sorted(found)
    assert set(found) <= set(problem.edges[1:-1])
    costs = estimate._costs

    def total(inner: tuple[int, ...]) -> float:
        return sum(float(costs[i, j]) for i, j in pairwise((0, *inner, bins)))

    least = min(map(total, combinations(range(1, bins), count)))
    chosen = tuple(int(i) for i in np.searchsorted(problem.edges, found))
    assert total(chosen) == pytest.approx(least, rel=1e-9)


def test_more_gates_have_less_error_by_the_estimate() -> None:
    edges = np.linspace(-8, 12, 4097)
    x = torch.from_numpy(0.5 * (edges[1:] + edges[:-1]))
    problem = Problem(edges, np.full(4096, 1 / 4096), F.silu(x).numpy(), 6)
    estimate = Estimate(problem)
    ends = estimate.ends
    assert ends[0] == -8 and ends[-1] == 12 and (np.diff(ends) > 0).all() and len(ends) <= 73
    totals = []
    for count in range(8):
        at = np.searchsorted(ends, [-8, *estimate.gates(count), 12])
        totals.append(sum(float(estimate._costs[i, j]) for i, j in pairwise(at)))
    assert all(b < 0.9 * a for a, b in pairwise(totals))


def test_scale_does_not_matter() -> None:
    plain = _problem(60, 3)
    gates = np.array(Estimate(plain).gates(3))
    for stretch, gain in ((2.0**10, 1.0), (1.0, 2.0**-20), (2.0**-30, 2.0**40)):
        moved = Problem(plain.edges * stretch, plain.weights, plain.values * gain, 3)
        assert Estimate(moved).gates(3) == pytest.approx(gates * stretch, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_nothing_to_tell_apart(value: float) -> None:
    problem = Problem(np.linspace(0, 1, 101), np.full(100, 0.01), np.full(100, value), 4)
    found = Estimate(problem).gates(3)
    assert len(found) == 3 and (np.diff(found) > 0).all()


def test_bins_without_weight_get_no_interval_of_their_own() -> None:
    weights = np.zeros(100)
    weights[[3, 50, 51, 90]] = 0.25
    problem = Problem(np.linspace(0, 1, 101), weights, np.arange(100.0) ** 2, 2)
    gates = Estimate(problem).gates(9)
    assert len(gates) == 3
    for part in divide(problem, gates):
        assert part.share == pytest.approx(0.25)
        assert part.problem.weights.sum() == pytest.approx(1.0)


# Dividing.


def test_parts_make_the_whole() -> None:
    problem = _problem(40, 1)
    gates = problem.edges[[5, 6, 30]]
    parts = divide(problem, gates)
    assert [len(part.problem.weights) for part in parts] == [5, 1, 24, 10]
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    joined = [np.concatenate([p.share * p.problem.weights for p in parts])]
    joined.append(np.concatenate([p.problem.values for p in parts]))
    assert joined[0] == pytest.approx(problem.weights)
    assert np.array_equal(joined[1], problem.values)
    for left, right in pairwise(parts):
        assert left.problem.high == right.problem.low
    assert len({part.problem.function for part in parts}) == 4
    assert all(part.problem.gates == 0 for part in parts)
    (whole,) = divide(problem, [])
    assert whole.share == pytest.approx(1.0) and len(whole.problem.weights) == 40


def test_constants_and_masks() -> None:
    edges, weights = np.linspace(-1, 1, 9), np.full(8, 0.125)
    problem = Problem(
        edges, weights, np.arange(8.0), 2, offset=False, masked=True, gates=2, spike_cost=0.5
    )
    parts = [part.problem for part in divide(problem, edges[[2, 5]])]
    # Below all gates lies -inf; above them a constant is an event, and free.
    assert [part.offset for part in parts] == [False, True, True]
    assert [part.masked for part in parts] == [True, False, False]
    assert [part.spike_cost for part in parts] == [0.5] * 3


def test_jumps_and_stairs_stay_where_they_are() -> None:
    edges = np.linspace(-2, 2, 401)
    centres = 0.5 * (edges[1:] + edges[:-1])

    def stairs_of(x: Array) -> Array:
        return torch.round(3 * torch.from_numpy(x)).numpy()

    stairs = find_jumps(stairs_of, centres, np.float32).stairs
    jumps = stairs[-1].jumps
    edges = np.unique(np.concatenate([edges, jumps]))
    values = stairs_of(0.5 * (edges[1:] + edges[:-1]))
    problem = Problem(edges, np.diff(edges) / 4, values, 2, jumps=jumps, stairs=stairs)
    # One gate on a jump, one elsewhere.
    gates = [float(jumps[4]), float(edges[300])]
    parts = [part.problem for part in divide(problem, gates)]
    inside = np.concatenate([part.jumps for part in parts])
    assert np.array_equal(inside, np.delete(jumps, 4))
    for part, (low, high) in zip(parts, pairwise([-2.5, *gates, 2.5]), strict=True):
        x = np.linspace(low, high, 500)[1:]
        for own, whole in zip(part.stairs, problem.stairs, strict=True):
            at, expected = (
                s.levels[np.searchsorted(s.jumps, x, side="left")] for s in (own, whole)
            )
            assert np.array_equal(at, expected)
