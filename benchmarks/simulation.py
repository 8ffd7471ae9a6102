"""Runs converted networks spike by spike beside the fast run, in float32 and float64; a table.

Run ``python benchmarks/simulation.py NAME=FILE.fsnn ... --data SOURCE`` with files that
scripts/convert_cifar.py or scripts/convert_ddpm.py wrote.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import torch
from energy import batches_for
from torch import Tensor

from convert import SpikingModel, load
from convert.inspect import count_operations, simulate
from convert.inspect.operation_counts import QUANTITIES

HEAD = [
    "network", "numbers", "images", "same prediction", "largest difference", "spikes",
    "spikes that differ", "share", "first differing site: last places", "counts", "seconds",
]  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("files", nargs="+", metavar="NAME=FILE")
    result.add_argument("--data", help="test images, as for scripts/convert_cifar.py")
    result.add_argument("--images", type=int, default=250, metavar="N")
    result.add_argument("--seed", type=int, default=0)
    return result


def rows_of(name: str, file: str, options: argparse.Namespace) -> Iterator[list[str]]:
    """A network in both kinds of numbers."""
    for dtype in (torch.float32, torch.float64):
        snn = load(file)
        batches = [_cast(batch, dtype) for batch in batches_for(snn, options)]
        yield [name, str(dtype).removeprefix("torch."), *_measured(snn.to(dtype), batches)]


def _cast(batch: Any, dtype: torch.dtype) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    return type(batch)(_cast(part, dtype) for part in batch)


def _measured(snn: SpikingModel, batches: list[Any]) -> list[str]:
    begin = time.perf_counter()
    same = images = flipped = spikes = 0
    largest = 0.0
    first = "-"
    for batch in batches:
        run = simulate(snn, batch, progress=False)
        a, b = run.outputs, run.fast_outputs
        same += int((a.flatten(1).argmax(1) == b.flatten(1).argmax(1)).sum())
        images += run.images
        largest = max(largest, float((a - b).abs().max()))
        flipped, spikes = flipped + run.flips.count, spikes + run.flips.spikes
        for site, ulps in list(run.flips.ulps.items())[:1]:
            first = f"{site}: {ulps:.3g}" if first == "-" else first
    seconds = time.perf_counter() - begin
    counts = count_operations(snn, batches[-1], progress=False)
    equal = all(abs(counts[q] - run.counts[q]) <= 1e-9 * max(1.0, counts[q]) for q in QUANTITIES)
    return [
        str(images), f"{same / images:.4f}", f"{largest:.1e}", str(spikes), str(flipped),
        f"{flipped / max(spikes, 1):.1e}", first, "equal" if equal else "differ", f"{seconds:.0f}",
    ]  # fmt: skip


def main() -> None:
    """Prints a line for each file and kind of numbers."""
    options = parser().parse_args()
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    for pair in options.files:
        name, _, file = pair.partition("=")
        for row in rows_of(name, file, options):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
