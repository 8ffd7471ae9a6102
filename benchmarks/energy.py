"""Prices converted networks at several K; writes Markdown.

Run ``python benchmarks/energy.py NAME=FILE.fsnn ... --data SOURCE --steps 4 6 8`` with files that
scripts/convert_cifar.py or scripts/convert_ddpm.py wrote for these K. A network of images takes
them from SOURCE, a diffusion model from noisy digits of the package.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import models
from convert import SpikingModel, evaluate, load
from convert.common.files import atomic_path
from convert.inspect import count_operations, energy
from convert.inspect.operation_counts import OperationCounts
from models.data import Loader
from models.trajectory import NoisyImages


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("files", nargs="+", metavar="NAME=FILE")
    result.add_argument("--data", help="test images, as for scripts/convert_cifar.py")
    result.add_argument("--steps", type=int, nargs="+", default=[4, 6, 8], metavar="K")
    result.add_argument("--images", type=int, default=250, metavar="N")
    result.add_argument("--costs", default="45nm")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--output", type=Path, metavar="FILE", help="Markdown; stdout if left out")
    return result


def batches_for(snn: SpikingModel, options: argparse.Namespace) -> Any:
    """Test data of a network."""
    stored = snn.metadata.get("preprocessing")
    if isinstance(stored, dict):
        images = models.load_images(options.data, progress=False).limited(options.images)
        return Loader(images, models.Preprocessing.from_dict(stored), 50)
    _, schedule = models.ddpm_digits(None, seed=options.seed)
    digits = models.load_images("digits", train=False).first(options.images)
    return NoisyImages(digits, schedule, seed=options.seed + 1)


def priced(name: str, snn: SpikingModel, options: argparse.Namespace) -> Iterator[list[str]]:
    """One row for each K."""
    data = batches_for(snn, options)
    classes = isinstance(snn.metadata.get("preprocessing"), dict)
    for steps in options.steps:
        with snn.with_steps(steps):
            counts = count_operations(snn, data, progress=False)
            metric = "agreement" if classes else "output"
            found = evaluate(
                snn, None, data, metric=metric, by_site=0, at=[steps], progress=False
            ).to_dict()["spiking"]
        quality = found["agreement"] if classes else found["relative_error"]
        yield [name, str(steps), f"{quality:.3f}", *figures(counts, options.costs)]


def figures(counts: OperationCounts, costs: str) -> list[str]:
    """Events, operations in millions, and energies in uJ, usual costs."""
    price = energy(counts, costs)
    eight = energy(replace(counts, steps=8), costs)
    millions = ("accumulates", "scalings", "multiply_accumulates", "dense_multiply_accumulates")
    cells = [
        ("arithmetic", "spiking", "integer"),
        ("with_memory", "spiking", "integer"),
        ("with_memory", "spiking", "float32"),
        ("with_memory", "original", "float32"),
        ("quantised_dense", "with_memory", "integer"),
        ("quantised_zero_skipping", "with_memory", "integer"),
    ]
    even = [
        c.break_even[1]
        for c in price.comparisons
        if c.numbers == "integer" and c.memory and c.against == "quantised_dense"
    ]
    return [
        f"{counts.spikes_per_neuron:.2f}",
        "none" if not even or even[0] is None else f"{even[0]:.2f}",
        *(f"{counts[q] / 1e6:.1f}" for q in millions),
        *(f"{price.cost(*cell).usual / 1e3:,.0f}" for cell in cells),
        f"{eight.cost('quantised_dense', 'with_memory').usual / 1e3:,.0f}",
    ]


HEAD = [
    "network", "K", "agreement or error", "events a neuron", "break-even",
    "accumulates", "scalings", "MACs left", "MACs, original",
    "spiking: arithmetic", "with memory", "float32, with memory", "original float32",
    "K bits dense", "K bits, zeros skipped", "8 bits dense",
]  # fmt: skip


def main() -> None:
    """Prices every file and writes one table."""
    options = parser().parse_args()
    torch.manual_seed(options.seed)
    print(f"seed {options.seed}", flush=True)
    rows = [HEAD, ["---"] * len(HEAD)]
    for pair in options.files:
        name, _, file = pair.partition("=")
        for row in priced(name, load(file), options):
            rows.append(row)
            print(" | ".join(row), flush=True)
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
    if options.output is None:
        print(text)
        return
    with atomic_path(options.output) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
