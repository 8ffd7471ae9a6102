"""How long counting operations takes beside the pass without counts, interleaved in one process.

Run ``python benchmarks/counting.py NAME=FILE.fsnn ... --data SOURCE`` with files that
scripts/convert_cifar.py or scripts/convert_ddpm.py wrote.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from energy import batches_for

from convert import load
from convert.calls.batch_reading import read_by
from convert.inspect import count_operations


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("files", nargs="+", metavar="NAME=FILE")
    result.add_argument("--data", help="test images, as for scripts/convert_cifar.py")
    result.add_argument("--images", type=int, default=500, metavar="N")
    result.add_argument("--rounds", type=int, default=5, metavar="N")
    result.add_argument("--seed", type=int, default=0)
    return result


def row(name: str, file: str, options: argparse.Namespace) -> list[str]:
    """Median seconds without and with counts, and the median of the rounds' ratios."""
    snn = load(file)
    batches = list(batches_for(snn, options))
    calls = list(read_by(batches, snn.reader()))
    plain, counted = [], []
    for _ in range(options.rounds + 1):
        begin = time.perf_counter()
        with torch.no_grad():
            for call in calls:
                snn(*call.args, **call.kwargs)
        middle = time.perf_counter()
        count_operations(snn, batches, progress=False)
        plain.append(middle - begin)
        counted.append(time.perf_counter() - middle)
    # The first round warms up.
    ratios = [b / a for a, b in zip(plain[1:], counted[1:], strict=True)]
    times = [f"{statistics.median(seconds[1:]):.2f}" for seconds in (plain, counted)]
    return [name, str(options.images), *times, f"{statistics.median(ratios):.2f}"]


def main() -> None:
    """Prints a line for each file."""
    options = parser().parse_args()
    head = ["network", "images", "seconds without", "with counts", "ratio"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    for pair in options.files:
        name, _, file = pair.partition("=")
        print("| " + " | ".join(row(name, file, options)) + " |", flush=True)


if __name__ == "__main__":
    main()
