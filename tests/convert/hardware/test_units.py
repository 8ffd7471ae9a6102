"""Units of potentials: none overflows, and a tied one is a shift away."""

import math

import numpy as np
import pytest

from convert.fitting.problem import Problem
from convert.fitting.whole_weights import WholeTable
from convert.hardware.units import state_of


def _problem(low: float, high: float) -> Problem:
    edges = np.linspace(low, high, 33)
    return Problem(edges, np.full(32, 1 / 32), np.maximum(edges[1:], 0), 4)


def _table(rng: np.random.Generator, tables: int) -> WholeTable:
    T, h = rng.normal(0, 2, (tables, 5)), rng.normal(0, 3, (tables, 5))
    whole = np.ones((tables, 5), np.int64)
    gates = np.sort(rng.normal(0, 1, tables - 1))
    return WholeTable(T, h, whole, np.zeros(tables, np.int64), 1.0, gates, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("tied", [None, 0.37])
def test_no_potential_overflows(bits: int, tied: float | None) -> None:
    rng = np.random.default_rng(bits)
    for tables in (1, 3):
        table = _table(rng, tables)
        state = state_of(table, _problem(-2.0, 5.0), bits, tied)
        assert state.most == 2 ** (bits - 1) - 1
        if tied is not None:
            assert math.log2(state.unit / tied) == pytest.approx(
                round(math.log2(state.unit / tied))
            )
        assert 5.0 / state.unit <= state.most
        for T, h in zip(table.thresholds, table.resets, strict=True):
            v = np.linspace(-2.5, 6.25, 999)
            for threshold, reset in zip(T, h, strict=True):
                assert abs(reset) / state.unit <= state.most
                v = np.where(v > threshold, v - reset, v)
                assert np.abs(v).max() / state.unit <= state.most + 1


def test_thresholds_that_all_values_exceed_take_no_room() -> None:
    rng = np.random.default_rng(3)
    table = _table(rng, 1)
    table.thresholds[0, 2] = -1e38
    assert state_of(table, _problem(-2.0, 5.0), 16, None).unit < 1e-2
