"""Tables that count in digits."""

from itertools import pairwise
from math import prod

import numpy as np
import pytest

from convert.fitting.digits import counting, divisions, single
from convert.fitting.problem import Solution


def _run(table: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which steps fire, as a number, and how many."""
    codes = 2.0 ** np.arange(table.shape[1])
    return Solution(table[0], table[1], codes, 0.0, 0.0, "").run(x)


@pytest.mark.parametrize("steps", [1, 3, 6, 9])
def test_every_division_uses_all_steps(steps: int) -> None:
    found = divisions(steps)
    assert len(set(found)) == len(found)
    assert all(sum(digits) == steps and min(digits) >= 1 for digits in found)
    assert (1,) * steps in found and (steps,) in found


@pytest.mark.parametrize("digits", [(4,), (1, 1, 1), (2, 2), (3, 1, 1), (1, 2, 1)])
@pytest.mark.parametrize("silent", [True, False])
def test_a_digit_spikes_once_at_most(digits: tuple[int, ...], silent: bool) -> None:
    begin, span = 0.1, 0.8
    table = counting(digits, begin, span, silent)
    assert table.shape == (2, sum(digits))
    levels = (digits[0] + silent) * prod(size + 1 for size in digits[1:])
    x = begin + span / levels * (np.arange(levels)[:, None] + np.linspace(-0.49, 0.49, 9))
    codes, spikes = _run(table, x)
    # Inputs around a level have one code, and every level another one.
    assert (codes == codes[:, :1]).all() and len(set(codes[:, 0])) == levels
    assert spikes.max() <= len(digits)
    assert (spikes.min() == 0) == silent


@pytest.mark.parametrize("silent", [True, False])
def test_one_spike_where_a_measure_says(silent: bool) -> None:
    edges = np.linspace(0, 1, 101)
    measure = np.where(edges[:-1] < 0.5, 3.0, 1.0)
    table = single(edges, measure, 4, silent)
    x = np.linspace(0.001, 0.999, 999)
    _, spikes = _run(table, x)
    assert set(spikes.tolist()) == ({0, 1} if silent else {1})
    cuts = np.sort(table[0][table[0] > 0])
    # Each level has as much of the measure.
    total = np.interp(cuts, edges, np.concatenate([[0.0], np.cumsum(measure)]))
    share = np.diff([0.0, *total, measure.sum()])
    assert len(share) == 4 + silent and np.allclose(share, share[0])
    assert all(a < b for a, b in pairwise(cuts))
