"""The fit room: TBPI as published, the binary table, and what `fit` refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import convert
from convert.errors import ConversionError, FitError
from convert.fitting import tbpi
from convert.fitting.distributions import distribution
from convert.fitting.functions import problem_of
from convert.fitting.measure import measure
from convert.fitting.methods import fit_problems
from convert.fitting.problem import Problem


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the training, for what holds however long it is."""
    monkeypatch.setattr(tbpi, "_EPOCHS_FIRST", 1000)
    monkeypatch.setattr(tbpi, "_EPOCHS_THIRD", 2000)


def _problem(function=F.silu, low=-4.0, high=6.0, steps=4, bins=4096, gain=1.0) -> Problem:
    edges = np.linspace(low, high, bins + 1)
    centres = torch.from_numpy(0.5 * (edges[1:] + edges[:-1]))
    weights = np.exp(-0.5 * ((centres.numpy() - low) / (high - low) * 4 - 2) ** 2)
    return Problem(edges, weights / weights.sum(), gain * function(centres).numpy(), steps, "f")


def _mse(problem: Problem, solution) -> float:
    """By the definition of the neuron, on the problem's bins."""
    v, y = problem.centres.copy(), np.full(len(problem.weights), float(solution.offset))
    for T, h, d in zip(solution.thresholds, solution.resets, solution.weights, strict=True):
        s = v > T
        y[s] += d
        v[s] -= h
    return float(problem.weights @ (y - problem.values) ** 2)


def test_swish_reaches_the_paper_at_four_and_eight_steps() -> None:
    given = {"low": -8.0, "high": 12.0}
    # Four steps need only the work that one of many sites gets.
    (four,) = fit_problems([problem_of(F.silu, *distribution(**given), 4)], "tbpi", shared=True)
    (eight,) = measure(F.silu, steps=[8], **given, method="tbpi")
    assert four.mse <= 1.02 * 3.88e-2
    assert eight.mse <= 1.02 * 6.295e-3


def test_stage_three_is_never_worse_than_its_trend_and_the_mse_is_true() -> None:
    for function in (F.silu, F.relu, torch.tanh):
        problem = _problem(function)
        (solution,) = fit_problems([problem], "tbpi", seed=1, shared=True)
        assert solution.start == "tbpi"
        assert solution.mse <= solution.stages["trend"]
        assert solution.mse == pytest.approx(_mse(problem, solution), rel=1e-9)
        assert solution.mse < 0.2 * problem.variance


def test_random_values_are_trained_through_both_stages_and_no_trend() -> None:
    problem = _problem(steps=5)
    (once,), (best,) = (fit_problems([problem], m, seed=1) for m in ("random", "random-best"))
    for solution in (once, best):
        assert solution.start == "random"
        assert solution.mse <= solution.stages["random"]
        assert solution.mse == pytest.approx(_mse(problem, solution), rel=1e-9)
    trained, _ = tbpi.learn(problem, 1, 0)
    back = tbpi.mapped(problem).back(trained)
    assert once.stages["random"] == pytest.approx(tbpi.loss(back, problem))
    assert best.mse < once.mse


def test_sites_of_one_function_have_random_values_of_their_own() -> None:
    problem = _problem(steps=3)
    first, second = fit_problems([problem, problem], "random", seed=0)
    assert not np.array_equal(first.thresholds, second.thresholds)


def test_random_start_follows_the_paper() -> None:
    starts = np.stack([tbpi.random_start(8, 0, i) for i in range(400)])
    assert starts.shape == (400, 3, 8)
    assert abs(starts[:, 0].mean()) < 0.1
    assert starts[:, 0].std() == pytest.approx(1.0, abs=0.05)
    assert (starts[:, 1:] >= 0).all()
    assert starts[:, 1:].mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.05)


def test_trends_are_the_least_squares_logarithm_and_polynomial() -> None:
    t = np.arange(1, 9)
    parameters = np.stack([2 - 0.5 * np.log(t), 3 - 0.1 * t + 0.02 * t**2, 1 + 0.0 * t])
    found = tbpi.trends(parameters)
    assert len(found) == 8  # each of T, h and d by either
    assert min(np.abs(trend - parameters).max() for trend in found) < 1e-9


@pytest.mark.parametrize("method", ["tbpi", "random", "binary"])
@pytest.mark.parametrize(("stretch", "shift", "gain"), [(2.0**-7, 0.0, 8.0), (4.0, 32.0, 0.25)])
def test_equivariant_under_scaling(
    method: str, stretch: float, shift: float, gain: float, short_training
) -> None:
    plain = _problem(steps=4)
    moved = Problem(
        plain.edges * stretch + shift, plain.weights, plain.values * gain, plain.steps, "f"
    )
    (a,), (b,) = (fit_problems([p], method, seed=0, shared=True) for p in (plain, moved))
    assert b.mse == pytest.approx(a.mse * gain**2, rel=0.02)


def test_binary_is_the_quantiser() -> None:
    problem = _problem(F.relu, -1.0, 3.0, steps=6)
    (solution,) = fit_problems([problem], "binary", seed=0)
    ratios = solution.resets[1:] / solution.resets[:-1]
    np.testing.assert_allclose(ratios, 0.5)
    np.testing.assert_allclose(solution.weights, solution.resets)
    alpha = 2 * solution.resets[0]
    assert solution.mse <= (alpha / 64) ** 2 / 12 * 1.5
    # No other alpha is much better.
    for other in np.linspace(0.3, 1.5, 60) * alpha:
        h = other * 2.0 ** -np.arange(1, 7)
        table = type(solution)(h - h[-1] / 2, h, h, 0.0, 0.0, "")
        assert _mse(problem, table) >= 0.98 * solution.mse


@pytest.mark.parametrize("method", ["tbpi", "random", "binary"])
def test_more_steps_do_not_hurt_on_relu(method: str, short_training) -> None:
    problems = [_problem(F.relu, steps=k) for k in (2, 4, 6)]
    errors = [fit_problems([problem], method, shared=True)[0].mse for problem in problems]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("method", ["tbpi", "random", "binary"])
def test_constant_function_and_single_bin(method: str, short_training) -> None:
    flat = _problem(lambda x: torch.full_like(x, 2.5))
    point = Problem(np.array([1.0, 1.25]), np.ones(1), np.array([3.0]), 3, "f")
    for problem, value in ((flat, 2.5), (point, 3.0)):
        (solution,) = fit_problems([problem], method, seed=0)
        assert solution(problem.centres) == pytest.approx(np.full(len(problem.weights), value))


def test_same_seed_same_fit_and_another_seed_another(short_training) -> None:
    first, again, other = (
        fit_problems([_problem(steps=3)], "tbpi", seed=seed, shared=True)[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first.thresholds, again.thresholds)
    assert not np.array_equal(first.thresholds, other.thresholds)


def test_fit_gives_a_neuron() -> None:
    neuron = convert.fit(F.silu, low=-4.0, high=6.0, steps=5, method="tbpi")
    x = torch.linspace(-4, 6, 2001)
    assert neuron.steps == 5
    assert (neuron(x) - F.silu(x)).pow(2).mean() < 0.02
    edges = np.linspace(-4, 6, 300)
    by_density = convert.fit(F.silu, density=(edges, np.ones(299)), steps=5, method="binary")
    assert (by_density(x) - F.silu(x)).pow(2).mean() < 0.02


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"low": 0.0, "high": 1.0, "steps": 0}, "steps"),
        ({"low": 0.0, "high": 1.0, "steps": 2.5}, "steps"),
        ({"low": 0.0, "high": 1.0, "steps": True}, "steps"),
        ({"low": 2.0, "high": 1.0, "steps": 3}, "low"),
        ({"low": 0.0, "high": float("inf"), "steps": 3}, "high"),
        ({"steps": 3}, "low="),
        ({"low": 0.0, "high": 1.0, "normal": (0, 1), "steps": 3}, "normal"),
        ({"normal": (0.0, -1.0), "steps": 3}, "deviation"),
        ({"density": (np.arange(4.0), np.zeros(3)), "steps": 3}, "weights"),
        ({"density": (np.arange(4.0), np.ones(4)), "steps": 3}, "edges"),
        ({"density": (np.array([0.0, 2.0, 1.0]), np.ones(2)), "steps": 3}, "edges"),
        ({"low": 0.0, "high": 1.0, "steps": 3, "method": "magic"}, "tbpi"),
        ({"low": -1.0, "high": 1.0, "steps": 3, "function": torch.log}, "finite"),
    ],
)
def test_bad_input_names_the_thing(given_: dict, named: str) -> None:
    function = given_.pop("function", F.silu)
    with pytest.raises(ConversionError, match=named):
        convert.fit(function, **given_)


@settings(max_examples=10)
@given(st.integers(1, 5), st.floats(-3, 0), st.floats(0.5, 9), st.integers(0, 99))
def test_any_distribution_is_fitted(steps: int, low: float, width: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = low + width * np.sort(rng.random(200))
    weights = rng.random(199) * (rng.random(199) > 0.5)
    weights[7] += 1
    f = np.sin(edges[:-1])
    problem = Problem(edges, weights / weights.sum(), f, steps, "f")
    (solution,) = fit_problems([problem], "binary", seed=0)
    assert np.isfinite([solution.thresholds, solution.resets, solution.weights]).all()
    assert solution.mse <= problem.variance + 1e-12


def test_error_is_of_the_family() -> None:
    assert issubclass(FitError, ConversionError)


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_what_is_no_seed_is_named(seed) -> None:
    with pytest.raises(FitError, match="seed must be a whole number"):
        convert.fit(F.silu, low=-1.0, high=1.0, steps=2, method="binary", seed=seed)
