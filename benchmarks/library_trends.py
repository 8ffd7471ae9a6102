"""Initial values for a function that the library lacks: its trends against the paper's.

Each function of the library is left out in turn. Four kinds of initial values, the best of each
by its error, are compared before and after the exact descent: trends of TBPI's stages 1 and 2,
trends over t of the other functions' tables, those tables as they are, and the tables of the same
function under other inputs. Writes DIR/library_trends.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from convert.common.files import atomic_path
from convert.fitting import library, tbpi
from convert.fitting.build_library import WANTED, exact
from convert.fitting.distributions import distribution
from convert.fitting.exact_error import errors_of, scratch
from convert.fitting.functions import problem_of
from convert.fitting.newton import descend
from convert.fitting.problem import Array
from convert.fitting.scaled import Scaled

KINDS = (
    "paper's trends",
    "library's trends",
    "other functions' tables",
    "own tables, other inputs",
)
_ITERATIONS, _DESCENDED = 240, 24


def trend_tables(entries: list[library.Entry], steps: int, scaled: Scaled) -> Array:
    """Trends of T and h over t of every table, on the problem's range ``[n, 2, K]``."""
    tables = library.tables(entries, steps, *library.span(*scaled.data[:2]))
    rows = [tbpi.trends(np.stack([t[0], t[1], t[1]])) for t in tables]
    return np.array([trend[:2] for some in rows for trend in some]).reshape(-1, 2, steps)


def compare(wanted_index: int, steps: int, seed: int) -> dict[str, tuple[float, float]]:
    """Error before and after the descent, by kind, relative to the mean square of f."""
    wanted = WANTED[wanted_index]
    problem = problem_of(exact(wanted.function), *distribution(**wanted.given), steps)
    scaled = Scaled.of(problem)
    others = [e for e in library.shipped() if e.function != wanted.function]
    own = [
        e for e in library.shipped() if e.function == wanted.function and e.inputs != wanted.inputs
    ]
    (paper,) = tbpi.initial_values([problem], seed=seed)
    points = tbpi.mapped(problem)
    span = library.span(*scaled.data[:2])
    starts = {
        KINDS[0]: np.array([scaled.into(*points.back(p)[:2]) for p in paper]),
        KINDS[1]: trend_tables(others, steps, scaled),
        KINDS[2]: library.tables(others, steps, *span),
        KINDS[3]: library.tables(own, steps, *span),
    }
    result = {}
    target, space = scaled.target(True, 0.0), scratch()
    for kind, tables in starts.items():
        if not len(tables):
            continue
        errors = errors_of(np.ascontiguousarray(tables), target, space)
        order = np.argsort(errors)[:_DESCENDED]
        after = []
        for i in order:
            T, h, d = tables[i, 0].copy(), tables[i, 1].copy(), np.empty(steps + 1)
            after.append(descend(T, h, d, target, _ITERATIONS, space))
        result[kind] = float(errors[order[0]]), float(min(after))
    return result


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, nargs="+", default=[4, 8, 12])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("benchmarks"), metavar="DIR")
    chosen = options.parse_args()
    cases = [(i, k) for k in chosen.steps for i in range(len(WANTED))]
    found = [compare(i, k, chosen.seed) for i, k in tqdm(cases, disable=None)]
    lines = [
        "Error of initial values for a function left out of the library, over that of the paper's",
        f"trends; geometric means over {len(WANTED)} entries (own tables: those that have any).",
        f"Command: `python benchmarks/library_trends.py`, seed {chosen.seed}.",
        "",
        "| K | initial values | before descent | after | best after |",
        "|---|---|---|---|---|",
    ]
    for k in chosen.steps:
        rows = [f for (_, steps), f in zip(cases, found, strict=True) if steps == k]
        for kind in KINDS:
            have = [r for r in rows if kind in r]
            before, after = (
                np.exp(np.mean([np.log(r[kind][j] / r[KINDS[0]][j]) for r in have])) for j in (0, 1)
            )
            wins = sum(r[kind][1] <= min(v[1] for v in r.values()) for r in have)
            lines.append(f"| {k} | {kind} | {before:.3f} | {after:.3f} | {wins} of {len(have)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    with atomic_path(chosen.out / "library_trends.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
