"""Solutions for common functions that ship with the package and warm-start every fit.

A table is chosen by the error it has on the problem at hand and not by the function's name, so a
function written by hand, or one that only resembles a common one, profits as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..common.files import atomic_path
from .problem import Array, Solution, Start

FILE = "library.json"
_VERSION = 1
# What lies further out than all but this share of the inputs does not set the scale.
_TAIL = 1e-4


@dataclass(frozen=True, eq=False)
class Entry:
    """The tables of one function under one input distribution.

    Args:
        function: its name.
        inputs: the distribution, in words.
        low, high: ends of the range that the bulk of the inputs fills, see `span`.
        solutions: best table by K, with its mean squared error.
        effort, seed: what they were built with.
    """

    function: str
    inputs: str
    low: float
    high: float
    solutions: dict[int, Solution]
    effort: str
    seed: int


def read(text: str) -> list[Entry]:
    """Entries of a library file's text."""
    content = json.loads(text)
    if content["version"] != _VERSION:
        raise ValueError(f"library version {content['version']}, this package reads {_VERSION}")
    return [
        Entry(
            e["function"],
            e["inputs"],
            e["low"],
            e["high"],
            {
                int(k): Solution(
                    np.array(s["T"]),
                    np.array(s["h"]),
                    np.array(s["d"]),
                    s["y0"],
                    s["mse"],
                    Start.LIBRARY,
                )
                for k, s in e["steps"].items()
            },
            e["effort"],
            e["seed"],
        )
        for e in content["entries"]
    ]


def write(entries: Sequence[Entry], path: Path) -> None:
    """Writes a library file, whole or not at all."""

    def numbers(values: Array) -> list[float]:
        return [float(f"{v:.9g}") for v in values]

    rows = [
        {
            "function": e.function,
            "inputs": e.inputs,
            "low": e.low,
            "high": e.high,
            "effort": e.effort,
            "seed": e.seed,
            "steps": {
                str(k): {
                    "mse": float(f"{s.mse:.4g}"),
                    "T": numbers(s.thresholds),
                    "h": numbers(s.resets),
                    "d": numbers(s.weights),
                    "y0": float(f"{s.offset:.9g}"),
                }
                for k, s in e.solutions.items()
            },
        }
        for e in entries
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    with atomic_path(path) as temporary:
        temporary.write_text(f'{{"version": {_VERSION}, "entries": [\n{lines}\n]}}\n', "utf-8")


@cache
def shipped() -> tuple[Entry, ...]:
    """The entries that come with the package; none where the file is missing."""
    source = files("convert.fitting") / "data" / FILE
    return tuple(read(source.read_text("utf-8"))) if source.is_file() else ()


def tables(entries: Sequence[Entry], steps: int, low: float, high: float) -> Array:
    """T and h of every table of K steps, stretched to another range, ``[n, 2, K]``.

    Args:
        entries: where from.
        steps: K.
        low, high: ends of the range that the bulk of the inputs fills, as in `Entry`.
    """
    found = []
    for entry in entries:
        solution = entry.solutions.get(steps)
        if solution is not None:
            stretch = (high - low) / (entry.high - entry.low)
            thresholds = (solution.thresholds - entry.low) * stretch + low
            found.append(np.stack([thresholds, solution.resets * stretch]))
    return np.array(found).reshape(-1, 2, steps)


def span(edges: Array, cumulative: Array) -> tuple[float, float]:
    """The range that holds all but a ten-thousandth of the inputs at either end.

    Args:
        edges: bin edges ``[B + 1]``.
        cumulative: probability below each edge ``[B + 1]``.
    """
    first = int(np.searchsorted(cumulative, _TAIL * cumulative[-1], side="right")) - 1
    last = int(np.searchsorted(cumulative, (1 - _TAIL) * cumulative[-1]))
    return float(edges[first]), float(edges[max(last, first + 1)])
