"""Times `evaluate` in two processes of one thread each against one process of two; writes a table.

Both ways run in turns, each as processes of its own; the start of the processes and the conversion
are not counted. Weights are random and images are noise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed
from gpu_times import build, noise

from convert import evaluate, to_spiking
from convert.common.files import atomic_path

NETWORKS = ("resnet20", "vit_tiny")
WAYS = {"one process, two threads": (1, 2), "two processes, one thread each": (2, 1)}
SIDE, BATCH, STEPS = 32, 50, 8


def measure(images: int, rounds: int) -> None:
    """In every process of the group: prints the seconds of each evaluation, by network."""
    torch.distributed.init_process_group("gloo")
    device = torch.device("cpu")
    found: dict[str, list[float]] = {}
    for name in NETWORKS:
        model = build(name)
        snn = to_spiking(
            model, list(noise(64, SIDE, device).split(32)), steps=STEPS, method="binary",
            progress=False,
        )  # fmt: skip
        with torch.no_grad():
            batches = [(x, model(x).argmax(1)) for x in noise(images, SIDE, device).split(BATCH)]
        for round_ in range(rounds + 1):
            torch.distributed.barrier()
            begin = time.perf_counter()
            result = evaluate(snn, model, batches, progress=False)
            if round_:
                found.setdefault(name, []).append(time.perf_counter() - begin)
        found[f"{name} agreement"] = [result.by_step[-1]["agreement"]]
    if torch.distributed.get_rank() == 0:
        print(json.dumps(found), flush=True)
    torch.distributed.destroy_process_group()


def run(processes: int, threads: int, images: int, rounds: int) -> dict[str, list[float]]:
    """The seconds of one way."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", __file__, "--images", str(images),
        "--rounds", str(rounds), "--measure",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measures both ways in turns, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2, help="evaluations of each process")
    parser.add_argument("--turns", type=int, default=2, help="how often each way is started")
    parser.add_argument("--measure", action="store_true", help="be one of the processes")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    if args.measure:
        measure(args.images, args.rounds)
        return
    found: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    for _ in range(args.turns):
        for way, (processes, threads) in WAYS.items():
            for name, seconds in run(processes, threads, args.images, args.rounds).items():
                found[way].setdefault(name, []).extend(seconds)
    one, two = found.values()
    rows = []
    for name in NETWORKS:
        if len({*one[f"{name} agreement"], *two[f"{name} agreement"]}) > 1:
            print(f"warning: {name}: the ways agree with the original on different images")
        first, second = statistics.median(one[name]), statistics.median(two[name])
        rows.append(f"| {name} | {first:.2f} | {second:.2f} | {second / first:.2f} |")
        print(rows[-1], flush=True)
    text = [
        "# Evaluation in several processes",
        "",
        f"Seconds that `evaluate` takes for {args.images:,} images of {SIDE} x {SIDE},",
        f"K = {STEPS}, on {os.cpu_count()} cores;",
        f"medians of {args.turns * args.rounds}, both ways in turns. torch {torch.__version__}. "
        "Command: `python benchmarks/several_processes.py`.",
        "",
        f"| network | {' | '.join(WAYS)} | ratio |",
        "|---|---|---|---|",
        *rows,
    ]
    with atomic_path(args.out) as path:
        path.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
