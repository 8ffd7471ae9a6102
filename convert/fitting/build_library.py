"""Builds the library that `library` reads: the functions, their inputs, the fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from . import library, tbpi_exact
from .distributions import distribution
from .functions import function_named, problem_of

TABULATED_STEPS = 16
_BINS = 16384


@dataclass(frozen=True)
class Wanted:
    """A function and an input distribution of the library."""

    function: str
    inputs: str
    given: dict[str, Any]


def _normal(deviation: float) -> tuple[str, dict[str, Any]]:
    return f"N(0, {deviation:g})", {"normal": (0.0, deviation)}


def _uniform(low: float, high: float) -> tuple[str, dict[str, Any]]:
    return f"U[{low:g}, {high:g}]", {"low": low, "high": high}


def _log_uniform(low: float, high: float) -> tuple[str, dict[str, Any]]:
    edges = np.geomspace(low, high, _BINS + 1)
    return f"log-uniform [{low:g}, {high:g}]", {"density": (edges, np.ones(_BINS))}


def _half_normal(deviation: float) -> tuple[str, dict[str, Any]]:
    """-|N(0, s)|, as a softmax's inputs below their maximum."""
    edges = np.linspace(-5 * deviation, 0.0, _BINS + 1)
    centres = 0.5 * (edges[1:] + edges[:-1])
    return f"-|N(0, {deviation:g})|", {
        "density": (edges, np.exp(-0.5 * (centres / deviation) ** 2))
    }


_INPUTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "silu": [_uniform(-8, 12), _normal(1.5), _normal(4)],
    "gelu": [_normal(0.5), _normal(1.5), _normal(4)],
    "sigmoid": [_normal(1.5), _normal(4)],
    "tanh": [_normal(1), _normal(3), _uniform(-10, 10)],
    "mish": [_normal(1.5)],
    "softplus": [_normal(1.5), _normal(4)],
    "elu": [_normal(1.5)],
    "selu": [_normal(1.5)],
    "hardswish": [_normal(1.5), _normal(3)],
    "leaky_relu": [_normal(1.5)],
    "logsigmoid": [_normal(2)],
    "softsign": [_normal(2)],
    "erf": [_normal(1)],
    "abs": [_normal(1.5)],
    "exp": [_uniform(-10, 0), _half_normal(3)],
    "reciprocal": [_uniform(1, 64), _log_uniform(1, 64)],
    "rsqrt": [_log_uniform(0.01, 10), _uniform(0.5, 4)],
    "sqrt": [_uniform(0, 4)],
    "square": [_uniform(-6, 6), _normal(1.5)],
}
WANTED = [Wanted(name, *given) for name, inputs in _INPUTS.items() for given in inputs]


def exact(name: str) -> Callable[[Tensor], Tensor]:
    """The function of a library entry."""
    return F.leaky_relu if name == "leaky_relu" else function_named(name)


def entry(wanted: Wanted, *, effort: str, seed: int, progress: bool = False) -> library.Entry:
    """Fits K = 1..16 without the help of any library.

    Args:
        wanted: the function and its inputs.
        effort, seed, progress: see `convert.fit`.
    """
    edges, weights = distribution(**wanted.given)
    function = exact(wanted.function)
    every = range(1, TABULATED_STEPS + 1)
    problems = [problem_of(function, edges, weights, k, wanted.function) for k in every]
    found = tbpi_exact.solve(problems, seed=seed, effort=effort, progress=progress, entries=())
    solutions = {p.steps: s for p, s in zip(problems, found, strict=True)}
    low, high = library.span(edges, np.concatenate([[0.0], np.cumsum(weights)]))
    return library.Entry(wanted.function, wanted.inputs, low, high, solutions, effort, seed)


def build(
    path: Path,
    *,
    effort: str = "high",
    seed: int = 0,
    chosen: Sequence[Wanted] = tuple(WANTED),
    progress: bool = False,
    told: Callable[[library.Entry], None] = lambda made: None,
) -> None:
    """Fits every entry and writes the library after each, in place of those of the same name.

    Args:
        path: the file.
        effort, seed, progress: see `convert.fit`.
        chosen: which entries.
        told: called with each entry once it is written.
    """
    kept = library.read(path.read_text("utf-8")) if path.exists() else []
    for wanted in chosen:
        made = entry(wanted, effort=effort, seed=seed, progress=progress)
        same = (made.function, made.inputs)
        kept = [e for e in kept if (e.function, e.inputs) != same] + [made]
        library.write(kept, path)
        told(made)
