"""What comes before any work: the import of `convert`, and a conversion of one ReLU.

Every figure is the median of several fresh processes, in CPU seconds (user and system) on one
thread. One process runs before them, so that compiled code is on disk. Writes
DIR/setup_cost.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from convert.common.files import atomic_path

BASE = "import torch, torchvision, spikingjelly.activation_based.neuron"
# The conversion is that of a network with one ReLU, on 32 images.
PROGRAM = f"""
from time import process_time
begin = process_time()
{BASE}
base = process_time()
import convert
whole = process_time()
torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(),
    torch.nn.Flatten(), torch.nn.Linear(8 * 8 * 8, 10),
).eval()
images = torch.randn(32, 3, 8, 8)
ready = process_time()
convert.to_spiking(network, images, progress=False)
first = process_time()
convert.to_spiking(network, images, progress=False)
print(base - begin, whole - base, first - ready, process_time() - first)
"""


def measured() -> list[float]:
    """Seconds of the base's import, of `convert`'s beside it, and of two conversions."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return [float(word) for word in run.stdout.split()]


def main() -> None:
    """Measures, prints, and writes the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="DIR")
    chosen = options.parse_args()
    measured()
    runs = [measured() for _ in range(chosen.runs)]
    base, own, first, again = (statistics.median(column) for column in zip(*runs, strict=True))
    ratio = statistics.median((run[0] + run[1]) / run[0] for run in runs)
    rows = [
        (f"`{BASE}`", f"{base:.2f}", ""),
        ("and `import convert`", f"{base + own:.2f}", f"{ratio:.2f} x the above; at most 1.3 x"),
        ("one ReLU, 32 images, first conversion of a process", f"{first:.2f}", "at most 1.5"),
        ("the same, second conversion", f"{again:.2f}", ""),
    ]
    lines = [("what", "CPU seconds", "aim"), ("---", "---", "---"), *rows]
    text = (
        f"# Cost of setting up\n\nMedian of {chosen.runs} fresh processes, CPU seconds on one "
        "thread, compiled code on disk. Written by\n`python benchmarks/setup_cost.py`.\n\n"
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + "\n"
    )
    print(text)
    chosen.output.mkdir(parents=True, exist_ok=True)
    with atomic_path(chosen.output / "setup_cost.md") as path:
        Path(path).write_text(text)


if __name__ == "__main__":
    main()
