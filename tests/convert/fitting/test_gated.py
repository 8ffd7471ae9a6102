"""Fits with gates: how good they are, and what must hold whatever is fitted."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convert
from convert.errors import FitError
from convert.fitting import tbpi
from convert.fitting.distributions import distribution
from convert.fitting.functions import problem_of
from convert.fitting.jumps import find_jumps
from convert.fitting.measure import measure
from convert.fitting.methods import fit_problems, register_method, unregister_method
from convert.fitting.problem import MOST_GATES, Array, Problem, Solution, Start

Function = Callable[[Tensor], Tensor]


def _problem(
    function: Function = F.silu,
    steps: int = 3,
    gates: int = 3,
    edges: Array | None = None,
    weights: Array | None = None,
    **rest: Any,
) -> Problem:
    """Uniform on [-6, 6] unless said."""
    edges = np.linspace(-6, 6, 257) if edges is None else edges
    weights = np.diff(edges) if weights is None else weights
    centres = torch.from_numpy(0.5 * (edges[1:] + edges[:-1]))
    values = function(centres).double().numpy()
    return Problem(edges, weights / weights.sum(), values, steps, "f", gates=gates, **rest)


def _fit(problem: Problem, method: str = "binary", **how: Any) -> Solution:
    (solution,) = fit_problems([problem], method, **how)
    return solution


def _step(x: Tensor) -> Tensor:
    return (x > 0.3).double()


def _constant(x: Tensor) -> Tensor:
    return torch.full_like(x, 2.5)


# How good.


def test_four_tables_of_four_steps() -> None:
    # Already with the work that one of many sites gets. One table: 8.55e-3.
    edges, weights = distribution(normal=(0.0, 1.5))
    problem = problem_of(F.silu, edges, weights, 4, gates=3)
    solution = _fit(problem, "tbpi-exact", shared=True)
    assert solution.thresholds.shape == (4, 4) and len(solution.gates) == 3
    assert solution.mse <= 8e-4
    used = solution(problem.centres) - problem.values
    assert solution.mse == pytest.approx(float(problem.weights @ used**2), rel=1e-9)


def test_what_is_measured() -> None:
    edges = np.linspace(-6, 6, 257)
    given: dict[str, Any] = {"density": (edges, np.ones(256)), "method": "binary"}
    (found,) = measure(F.gelu, [2], gates=1, **given)
    (plain,) = measure(F.gelu, [2], **given)
    assert found.mse < 0.3 * plain.mse
    row = found.to_dict()
    assert len(row["gates"]) == 1 and len(row["T"]) == len(row["y0"]) == 2
    assert plain.to_dict()["gates"] == [] and isinstance(plain.to_dict()["y0"], float)
    # An event is a spike, or the constant of an interval.
    x = np.linspace(-7, 7, 2001)
    _, events = found.solution.run(x)
    neuron = convert.fit(F.gelu, steps=2, gates=1, **given)
    spikes = neuron.spikes(torch.from_numpy(x)).sum(0)
    constants = neuron.offset[neuron.interval(torch.from_numpy(x))] != 0
    assert np.array_equal(events, (spikes + constants).numpy())


_LOG = np.logspace(-6, 0, 257)
_CURVES: dict[str, tuple[Function, Array | None, Array | None]] = {
    "silu": (F.silu, None, None),
    "exp": (torch.exp, np.linspace(-10, 0, 257), None),
    "relu": (F.relu, np.linspace(-1.003, 2, 302), None),
    "step": (_step, np.linspace(-2, 2, 402), None),
    "constant": (_constant, None, None),
    "sqrt over decades": (torch.sqrt, _LOG, np.ones(256)),
}


@pytest.mark.parametrize("name", _CURVES)
def test_more_gates_are_never_worse(name: str) -> None:
    function, edges, weights = _CURVES[name]
    solutions = [_fit(_problem(function, 3, gates, edges, weights)) for gates in (0, 1, 3, 7)]
    errors = [solution.mse for solution in solutions]
    assert all(b <= a for a, b in pairwise(errors))
    if name in ("step", "constant"):
        # Where one table is as good, there are no gates.
        assert errors[-1] < 1e-3 and (errors[0] > 0 or not len(solutions[-1].gates))
    else:
        assert errors[-1] < 0.03 * errors[0]


def test_more_gates_are_never_worse_by_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tbpi, "_EPOCHS_FIRST", 300)
    problems = [_problem(F.silu, 1, gates) for gates in (0, 1, 3)]
    errors = [_fit(problem, "tbpi-exact").mse for problem in problems]
    assert errors[1] < 0.5 * errors[0] and errors[2] < 0.5 * errors[1]


def test_a_density_over_decades() -> None:
    given: dict[str, Any] = {"density": (_LOG, np.ones(256)), "steps": 4, "method": "binary"}
    x = torch.logspace(-6, 0, 5001, dtype=torch.float64)
    errors = []
    for gates in (0, 7):
        neuron = convert.fit(torch.sqrt, gates=gates, **given)
        errors.append(float((neuron(x) - x.sqrt()).square().mean()))
    assert errors[1] < errors[0] / 30


# What holds.


@pytest.mark.parametrize("gates", [1, 3, 7])
@pytest.mark.parametrize("method", ["binary", "tbpi-exact"])
def test_the_silent_side_of_a_ramp_costs_nothing(gates: int, method: str) -> None:
    for edges in (np.linspace(-3, 4, 702), np.linspace(-3.003, 4, 302)):
        solution = _fit(_problem(F.relu, 2, gates, edges), method, shared=True)
        y, events = solution.run(np.linspace(-3, -0.02, 500))
        assert not y.any() and not events.any()
        assert np.atleast_1d(solution.offset)[0] == 0.0


def _stairs(function: Function, steps: int, gates: int, **rest: Any) -> Problem:
    """A staircase, as a site's histogram shows it: its jumps are edges."""
    edges = np.linspace(-2, 2, 401)
    centres = 0.5 * (edges[1:] + edges[:-1])

    def sampled(x: Array) -> Array:
        return function(torch.from_numpy(x)).numpy()

    stairs = find_jumps(sampled, centres, np.float32).stairs
    assert stairs
    edges = np.unique(np.concatenate([edges, stairs[-1].jumps]))
    return _problem(function, steps, gates, edges, stairs=stairs, jumps=stairs[-1].jumps, **rest)


def test_staircases_stay_exact() -> None:
    x = torch.linspace(-1.9, 1.9, 4000)
    for function, steps in ((torch.sign, 2), (torch.round, 4), (lambda v: 0.7 * v.floor(), 4)):
        solution = _fit(_stairs(function, steps, 3))
        assert not len(solution.gates) and solution.start is Start.STAIRS
        neuron = convert.FewSpikesNeuron(
            solution.thresholds, solution.resets, solution.weights, solution.offset
        )
        torch.testing.assert_close(neuron(x), function(x), rtol=0, atol=1e-6)


def test_gates_make_staircases_exact_that_have_too_many_jumps() -> None:
    def sixteen(x: Tensor) -> Tensor:
        return torch.floor(x.clamp(-1, 0.999) * 8)

    plain, gated = (_fit(_stairs(sixteen, 2, gates)) for gates in (0, 7))
    assert plain.mse > 0.5 and gated.mse < 1e-9
    x = np.linspace(-1.9, 1.9, 4001)
    expected = sixteen(torch.from_numpy(x)).numpy()
    assert np.abs(gated(x) - expected).max() < 1e-5


@pytest.mark.parametrize("method", ["binary", "tbpi-exact"])
def test_a_mask_lies_below_all_gates(method: str) -> None:
    edges = np.linspace(-10, 0, 129)
    for gates in (1, 3) if method == "binary" else (2,):
        problem = _problem(torch.exp, 1, gates, edges, masked=True, offset=False)
        solution = _fit(problem, method, shared=True)
        offset = np.asarray(solution.offset)
        assert len(offset) == gates + 1 and offset[0] == 0.0 and offset[1:].all()
        y, events = solution.run(np.array([-np.inf, -1e30]))
        assert not y.any() and not events.any()


def test_a_barred_constant_stays_out_of_the_lowest_interval() -> None:
    problem = _problem(torch.cos, 3, 3, offset=False)
    solution = _fit(problem)
    assert np.asarray(solution.offset)[0] == 0.0
    assert solution.mse < 0.5 * _fit(_problem(torch.cos, 3, 0, offset=False)).mse


@pytest.mark.parametrize("method", ["binary", "tbpi-exact"])
@pytest.mark.parametrize("bins", [1, 2, 3, 5])
def test_few_bins(bins: int, method: str) -> None:
    edges = np.linspace(0, 1, bins + 1)
    for gates in (1, 7):
        problem = _problem(torch.exp, 2, gates, edges)
        solution = _fit(problem, method, shared=True)
        assert len(solution.gates) == min(gates, bins - 1)
        assert solution.mse <= _fit(_problem(torch.exp, 2, 0, edges)).mse + 1e-12
        if gates >= bins - 1:
            assert solution(problem.centres) == pytest.approx(problem.values)


def test_bins_without_weight() -> None:
    weights = np.zeros(256)
    weights[::32] = 1.0
    for gates in (1, 3, 15):
        problem = _problem(torch.exp, 2, gates, weights=weights)
        solution = _fit(problem)
        assert len(solution.gates) == min(gates, 7)
        assert np.isfinite(solution.mse) and np.isfinite(solution.offset).all()
    assert solution.mse < 1e-12


@pytest.mark.parametrize("gates", [1, 3, MOST_GATES])
def test_gates_are_edges_and_increase(gates: int) -> None:
    rng = np.random.default_rng(gates)
    edges = np.sort(rng.normal(size=151)) * 3
    weights = rng.random(150) * (rng.random(150) > 0.3)
    for shared in (True, False) if gates < 8 else (True,):
        solution = _fit(_problem(torch.sin, 2, gates, edges, weights), shared=shared)
        assert len(solution.gates) == gates
        assert (np.diff(solution.gates) > 0).all() and np.isin(solution.gates, edges).all()
        assert edges[0] < solution.gates[0] and solution.gates[-1] < edges[-1]
        assert solution.thresholds.shape == (gates + 1, 2)


@pytest.mark.parametrize("method", ["tbpi", "random", "random-best", "binary"])
def test_methods_take_gates(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tbpi, "_EPOCHS_FIRST", 200)
    monkeypatch.setattr(tbpi, "_EPOCHS_SECOND", 200, raising=False)
    first, again = (_fit(_problem(F.silu, 2, 1), method, seed=3, shared=True) for _ in range(2))
    plain = _fit(_problem(F.silu, 2, 0), method, seed=3, shared=True)
    assert len(first.gates) == 1 and first.mse < plain.mse
    for name in ("thresholds", "resets", "weights", "offset", "gates"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name


def test_the_same_seed_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tbpi, "_EPOCHS_FIRST", 300)
    problems = [_problem(F.silu, 2, 1), _problem(F.silu, 1, 3), _problem(F.silu, 2, 0)]
    first = fit_problems(problems, seed=5, shared=True)
    again = fit_problems(problems, seed=5, shared=True)
    alone = fit_problems(problems[:1], seed=5, shared=True)
    for a, b in zip([*first, first[0]], [*again, *alone], strict=True):
        assert a.mse == b.mse and np.array_equal(a.thresholds, b.thresholds)
        assert np.array_equal(a.gates, b.gates)


def _middle(problems: Sequence[Problem], **_: Any) -> list[Solution]:
    """The value in the middle, whatever x is."""
    result = []
    for p in problems:
        none = np.zeros(p.steps)
        y0 = float(p.values[len(p.values) // 2])
        mse = float(p.weights @ (y0 - p.values) ** 2)
        result.append(Solution(none + 1e3, none, none, y0, mse, Start.GROWN))
    return result


def test_a_method_of_ones_own_and_its_refinement() -> None:
    refined: list[tuple[Problem, Solution]] = []

    def to_mean(problem: Problem, solution: Solution) -> Solution:
        refined.append((problem, solution))
        mean = float(problem.weights @ problem.values)
        return Solution(solution.thresholds, solution.resets, solution.weights, mean, 0.0, "")

    problem = _problem(torch.square, 1, 3, np.linspace(0, 4, 401))
    try:
        register_method("middle", _middle)
        register_method("mean", _middle, refine=to_mean)
        left, moved = (_fit(problem, name) for name in ("middle", "mean"))
    finally:
        for name in ("middle", "mean"):
            unregister_method(name)
    assert refined and all(p.gates == 0 and s.thresholds.shape == (1,) for p, s in refined)
    assert moved.mse < left.mse < _middle([problem])[0].mse
    # Gates moved until each lay in the middle between the levels beside it.
    levels = np.asarray(moved.offset)
    assert moved.gates**2 == pytest.approx(0.5 * (levels[1:] + levels[:-1]), abs=0.1)
    assert moved.start == "grown"


def test_a_price_on_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tbpi, "_EPOCHS_FIRST", 300)
    costs = {0.0: [], 0.3: [], 3.0: []}
    events = dict.fromkeys(costs, 0.0)
    for price, found in costs.items():
        for gates in (0, 1, 3):
            problem = _problem(F.silu, 1, gates, np.linspace(-8, 12, 257), spike_cost=price)
            solution = _fit(problem, "tbpi-exact")
            events[price] = float(problem.weights @ solution.run(problem.centres)[1])
            found.append(solution.mse + price * events[price])
        assert all(b <= a + 1e-9 for a, b in pairwise(found))
    assert events[3.0] < events[0.3] < events[0.0]


def test_a_constant_is_left_out_where_it_is_not_worth_its_event() -> None:
    edges = np.linspace(-3, 3, 601)
    found = {}
    for price in (0.0, 0.05):
        problem = _problem(F.relu, 2, 3, edges, spike_cost=price)
        found[price] = _fit(problem, "tbpi-exact", shared=True)
    assert np.count_nonzero(found[0.0].offset) == 3
    assert np.count_nonzero(found[0.05].offset) < 3
    # Every table without a constant sends a spike for most of its interval, and one at most.
    assert problem.events(found[0.05]) < 0.7 < problem.events(found[0.0])


def test_events_are_counted_where_inputs_occur() -> None:
    """Rare inputs may spend spikes, and frequent ones save them."""
    edges = np.linspace(-3, 3, 601)
    spent = {}
    for side in (-1, 1):
        often = np.where(side * edges[:-1] >= 0, 1.9, 0.1)
        problem = _problem(torch.abs, 3, 1, edges, spike_cost=0.05, frequencies=often / often.sum())
        events = _fit(problem, "tbpi-exact", shared=True).run(problem.centres)[1]
        spent[side] = events[problem.centres < 0].mean() - events[problem.centres > 0].mean()
    assert spent[1] > 0 > spent[-1]


def test_frequencies_are_checked() -> None:
    for wrong in (np.ones(3), np.full(256, -1.0), np.full(256, np.nan)):
        with pytest.raises(FitError, match="frequencies must be 256 finite numbers"):
            _problem(frequencies=wrong)


@pytest.mark.parametrize("gates", [-1, 16, 2.5, True, "3", None, [1]])
def test_what_is_no_number_of_gates_is_named(gates: Any) -> None:
    with pytest.raises(FitError, match="gates must be a whole number from 0 to 15, found"):
        convert.fit(F.silu, low=-1.0, high=1.0, steps=2, method="binary", gates=gates)
    with pytest.raises(FitError, match="gates must be"):
        measure(F.silu, [2], low=-1.0, high=1.0, method="binary", gates=gates)
    with pytest.raises(FitError, match="gates must be"):
        _problem(gates=gates)


def test_ranges_finer_than_float32() -> None:
    neuron = convert.fit(
        torch.exp,
        density=(1.0 + 1e-8 * np.arange(101), np.ones(100)),
        steps=2,
        gates=15,
        method="binary",
    )
    x = torch.linspace(1.0, 1.0 + 1e-6, 9)
    assert neuron.gates is not None and bool((neuron.gates.diff() >= 0).all())
    torch.testing.assert_close(neuron(x), x.exp())
