"""Fit quality: every method over functions, distributions and K, against the quantisers' floors.

Then neurons with gates: G = 1, 2, 4, 8 tables, and the published tables of LAS (arXiv 2505.09659)
as a peer. Writes DIR/fit_quality.md and DIR/fit_quality.png; with --only-gates DIR/gates.md alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from convert.common.files import atomic_path
from convert.fitting.functions import function_named
from convert.fitting.measure import measure
from convert.fitting.methods import warm_up
from convert.fitting.problem import Array

CASES: list[tuple[str, dict[str, object], str]] = [
    ("silu", {"low": -8.0, "high": 12.0}, "U[-8, 12]"),
    ("silu", {"normal": (0.0, 1.5)}, "N(0, 1.5)"),
    ("gelu", {"normal": (0.0, 1.5)}, "N(0, 1.5)"),
    ("relu", {"normal": (0.0, 1.5)}, "N(0, 1.5)"),
    ("sigmoid", {"normal": (0.0, 1.5)}, "N(0, 1.5)"),
    ("tanh", {"low": -10.0, "high": 10.0}, "U[-10, 10]"),
    ("exp", {"low": -10.0, "high": 0.0}, "U[-10, 0]"),
    ("reciprocal", {"low": 1.0, "high": 64.0}, "U[1, 64]"),
    ("square", {"low": -6.0, "high": 6.0}, "U[-6, 6]"),
]


# What LAS publishes for K = 16: its mean squared error on uniform inputs.
LAS: list[tuple[str, float, float, float]] = [
    ("reciprocal", 1.0, 4.0, 1.03e-4),
    ("reciprocal", 4.0, 10.0, 1.36e-6),
    ("exp", -10.0, 0.0, 2.38e-4),
    ("gelu", -6.0, 1.0, 1.95e-4),
    ("square", 0.0, 3.0, 3.46e-3),
]
# Tables of a gated neuron.
TABLES = (1, 2, 4, 8)


def gated_text(steps: list[int], seed: int) -> str:
    """The tables of neurons with gates, in Markdown."""
    columns = [
        "function",
        "x",
        "K",
        *(f"G = {g}" for g in TABLES),
        *(f"events, {g}" for g in TABLES),
    ]
    rows = [columns, ["---"] * len(columns)]
    for name, given, label in tqdm(CASES, "gates", disable=None):
        found = {
            g: measure(function_named(name), steps, gates=g - 1, seed=seed, **given)  # type: ignore[arg-type]
            for g in TABLES
        }
        for i, k in enumerate(steps):
            fits = [found[g][i] for g in TABLES]
            figures = [f"{fit.mse:.3g}" for fit in fits] + [f"{fit.spikes:.2f}" for fit in fits]
            rows.append([name, label, str(k), *figures])
    las = [["function", "x", "LAS, K = 16", *(f"G = {g}, K = 8" for g in TABLES)], ["---"] * 7]
    for name, low, high, published in tqdm(LAS, "LAS", disable=None):
        errors = [
            measure(function_named(name), [8], gates=g - 1, seed=seed, low=low, high=high)[0].mse
            for g in TABLES
        ]
        span = f"U[{low:g}, {high:g}]"
        las.append([name, span, f"{published:.3g}", *(f"{e:.3g}" for e in errors)])
    parts = [
        (
            "## Gates\n\nMean squared error of `tbpi-exact` with G tables, and the events of one "
            "input: spikes, and the constants\nof intervals. A gated neuron takes K + 1 time steps."
        ),
        _markdown(rows),
        "LAS (arXiv 2505.09659) publishes tables of K = 16 for these functions and inputs.",
        _markdown(las),
    ]
    return "\n\n".join(parts) + "\n"


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def outputs(function: Callable[..., object], given: dict[str, object], points: int) -> Array:
    """Sorted values of f on an even sample of the distribution, ``[points]``."""
    import torch

    share = (np.arange(points) + 0.5) / points
    if "normal" in given:
        mean, std = given["normal"]  # type: ignore[misc]
        normal = torch.distributions.Normal(float(mean), float(std))
        x = normal.icdf(torch.from_numpy(share))
    else:
        low, high = float(given["low"]), float(given["high"])  # type: ignore[arg-type]
        x = torch.from_numpy(low + (high - low) * share)
    return np.sort(function(x).numpy())  # type: ignore[attr-defined]


def uniform_quantiser(f: Array, steps: int) -> float:
    """MSE of 2^K equal levels of f with least-error clipping at both ends."""
    best, levels = np.inf, 2**steps - 1
    for cut_low in (0.0, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03):
        for cut_high in (0.0, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.06):
            low, high = np.quantile(f, [cut_low, 1 - cut_high])
            if high > low:
                q = np.clip(np.round((f - low) / (high - low) * levels), 0, levels)
                best = min(best, float(np.mean((low + q * (high - low) / levels - f) ** 2)))
    return best


def best_quantiser(f: Array, steps: int) -> float:
    """MSE of the best 2^K levels of f (Lloyd-Max); by the 4^-K law beyond K = 10."""
    if steps > 10:
        return best_quantiser(f, 10) * 4.0 ** (10 - steps)
    total, squares = (np.concatenate([[0.0], np.cumsum(f**n)]) for n in (1, 2))
    # Lloyd's iteration finds a local minimum: equal levels are a bound, and two starts follow.
    best = uniform_quantiser(f, steps)
    for start in (np.quantile(f, (np.arange(2**steps) + 0.5) / 2**steps),
                  np.linspace(f[0], f[-1], 2**steps)):  # fmt: skip
        levels = start
        for _ in range(300):
            cuts = np.searchsorted(f, 0.5 * (levels[1:] + levels[:-1]))
            cuts = np.concatenate([[0], cuts, [len(f)]])
            count, mass = np.diff(cuts), np.diff(total[cuts])
            levels = np.sort(np.where(count > 0, mass / np.maximum(count, 1), levels))
        error = np.diff(squares[cuts]) - mass**2 / np.maximum(count, 1)
        best = min(best, float(error.sum() / len(f)))
    return best


def main() -> None:
    """Measures, prints, and writes the table and the plot."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, nargs="+", default=[2, 3, 4, 6, 8, 10, 12, 16])
    options.add_argument("--methods", nargs="+", default=["tbpi-exact", "tbpi", "binary"])
    options.add_argument("--gated-steps", type=int, nargs="+", default=[2, 3, 4, 6, 8, 12])
    options.add_argument("--only-gates", action="store_true", help="write gates.md alone")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="DIR")
    chosen = options.parse_args()
    for method in chosen.methods:
        warm_up(method)
    if chosen.only_gates:
        text = gated_text(chosen.gated_steps, chosen.seed)
        print(text)
        with atomic_path(chosen.output / "gates.md") as path:
            Path(path).write_text(text)
        return
    heads = [*chosen.methods, "uniform quantiser", "best quantiser"]
    rows, curves = [], []
    for name, given, label in tqdm(CASES, disable=None):
        function = function_named(name)
        f = outputs(function, given, 200_000)
        found = {m: measure(function, chosen.steps, method=m, seed=chosen.seed, **given)  # type: ignore[arg-type]
                 for m in chosen.methods}  # fmt: skip
        floors = [[q(f, k) for k in chosen.steps] for q in (uniform_quantiser, best_quantiser)]
        curves.append((f"{name}, {label}", [[x.mse for x in found[m]] for m in found] + floors))
        for i, k in enumerate(chosen.steps):
            figures = [found[m][i].mse for m in chosen.methods] + [row[i] for row in floors]
            first = found[chosen.methods[0]][i]
            rows.append([name, label, str(k), *(f"{x:.3g}" for x in figures),
                         f"{first.spikes:.2f}", f"{first.seconds:.1f}"])  # fmt: skip
    columns = ["function", "x", "K", *heads, "spikes per input", "seconds"]
    lines = ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]]
    text = (
        "# Fit quality\n\nMean squared error on 400,000 points of each distribution. Spikes and "
        f"seconds are those of `{chosen.methods[0]}`; compilation is not in them. Written by\n"
        f"`python benchmarks/fit_quality.py` with seed {chosen.seed}.\n\n"
        + "\n".join(lines)
        + "\n\n"
        + gated_text(chosen.gated_steps, chosen.seed)
    )
    print(text)
    chosen.output.mkdir(parents=True, exist_ok=True)
    with atomic_path(chosen.output / "fit_quality.md") as path:
        Path(path).write_text(text)
    figure, axes = plt.subplots(3, 3, figsize=(12, 10), layout="constrained")
    for ax, (title, lines_) in zip(axes.flat, curves, strict=False):
        for head, line in zip(heads, lines_, strict=True):
            ax.semilogy(chosen.steps, line, "--" if "quantiser" in head else "o-", label=head, ms=4)
        ax.set(title=title, xlabel="time steps K", ylabel="MSE", xticks=chosen.steps)
        ax.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    with atomic_path(chosen.output / "fit_quality.png") as path:
        figure.savefig(path, dpi=90, format="png")


if __name__ == "__main__":
    main()
