"""The library of solutions: read and written whole, chosen by error, never a loss."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convert.fitting import library, tbpi, tbpi_exact
from convert.fitting.build_library import WANTED, build, exact
from convert.fitting.distributions import distribution
from convert.fitting.functions import problem_of
from convert.fitting.growth import Growth


def of(function, steps, **given):
    return problem_of(function, *distribution(**given), steps)


def test_every_shipped_table_has_the_figure_it_was_built_with():
    entries = library.shipped()
    assert len(entries) == len(WANTED)
    for entry in entries:
        wanted = next(w for w in WANTED if (w.function, w.inputs) == (entry.function, entry.inputs))
        edges, weights = distribution(**wanted.given)
        centres = 0.5 * (edges[1:] + edges[:-1])
        values = exact(entry.function)(torch.from_numpy(centres)).numpy()
        before = np.inf
        for k, solution in sorted(entry.solutions.items()):
            error = float(weights @ (solution(centres) - values) ** 2 / weights.sum())
            assert error == pytest.approx(solution.mse, rel=0.02, abs=1e-9), (entry.function, k)
            assert error <= before * (1 + 1e-3)
            before = error


def test_a_file_reads_as_it_was_written(tmp_path):
    path = tmp_path / "library.json"
    library.write(library.shipped()[:2], path)
    for a, b in zip(library.read(path.read_text()), library.shipped(), strict=False):
        assert (a.function, a.inputs, a.low, a.high) == (b.function, b.inputs, b.low, b.high)
        for k, solution in a.solutions.items():
            np.testing.assert_array_equal(solution.thresholds, b.solutions[k].thresholds)


def test_a_newer_file_is_refused():
    with pytest.raises(ValueError, match="version 99"):
        library.read('{"version": 99, "entries": []}')


def test_a_function_written_by_hand_finds_its_table():
    def mine(x):
        return x / (1 + torch.exp(-x))

    problem = of(mine, 6, normal=(0.1, 1.4))
    (cold,) = tbpi_exact.solve([problem], entries=(), shared=True)
    (warm,) = tbpi_exact.solve([problem], shared=True)
    assert warm.mse <= cold.mse * 1.03
    growth = Growth([problem], [[]], tbpi_exact._SHARED["normal"], 0, library.shipped())
    nearest = growth._nearest(6)
    assert len(nearest) == 4


def test_a_library_that_fits_badly_does_no_harm():
    problem = of(F.silu, 4, normal=(0.0, 1.5))
    strangers = [e for e in library.shipped() if e.function in ("square", "reciprocal")]
    (cold,) = tbpi_exact.solve([problem], entries=(), shared=True)
    (warm,) = tbpi_exact.solve([problem], entries=strangers, shared=True)
    assert warm.mse <= cold.mse * 1.02


def test_a_build_keeps_the_other_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["convert.fitting.build_library"], "TABULATED_STEPS", 2)
    monkeypatch.setattr(tbpi, "_EPOCHS_FIRST", 1000)
    path = tmp_path / "library.json"
    silu = [w for w in WANTED if w.function == "silu"][:1]
    gelu = [w for w in WANTED if w.function == "gelu"][:1]
    build(path, effort="normal", chosen=silu)
    build(path, effort="normal", chosen=gelu)
    assert [e.function for e in library.read(path.read_text())] == ["silu", "gelu"]
    assert F.silu is exact("silu")
