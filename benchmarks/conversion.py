"""Times a whole conversion (capture, calibrate, fit, swap) and its peak memory; writes a table.

Each network runs in a process of its own, after the fit's code was compiled; random weights and
noise images. Memory is what the conversion takes beyond the model that it was given (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

import models
from convert import to_spiking
from convert.common.files import atomic_path
from convert.fitting.methods import warm_up

# Side of the images, how many, batch.
NETWORKS = {
    "resnet20": (32, 512, 128),
    "resnet20_silu": (32, 512, 128),
    "vit_tiny": (32, 512, 128),
    "resnet50": (64, 512, 64),
    "vit_b_16": (224, 64, 16),
}
STAGES = ("capture", "calibrate", "fit")


def status(key: str) -> int:
    """A figure of the process in bytes: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def activations(model: nn.Module, x: Tensor) -> int:
    """Bytes that the layers without children put out on one batch."""
    total = 0

    def add(_: nn.Module, __: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    leaves = [m for m in model.modules() if not list(m.children())]
    handles = [leaf.register_forward_hook(add) for leaf in leaves]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return total


def measured(name: str, steps: int, gates: int) -> dict[str, float]:
    """Seconds and bytes of one conversion."""
    side, count, batch = NETWORKS[name]
    torch.manual_seed(0)
    if name in ("resnet20", "resnet20_silu", "vit_tiny"):
        model = models.get(name, "random", None, 10).eval()
    else:
        model = torchvision.models.get_model(name, weights=None).eval()
    images = torch.randn(count, 3, side, side)
    warm_up()
    layers = activations(model, images[:batch])
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    before = status("VmRSS")
    # Makes the peak that of now.
    Path("/proc/self/clear_refs").write_text("5")
    begin = time.perf_counter()
    batches = list(images.split(batch))
    snn = to_spiking(model, batches, steps=steps, gates=gates, progress=False)
    seconds = time.perf_counter() - begin
    stages = {stage: snn.report.seconds[stage] for stage in STAGES}
    peak = status("VmHWM") - before
    return {
        "sites": len(snn.sites), "seconds": seconds, "weights": weights, "layers": layers,
        "peak": peak, "ratio": (weights + peak) / (2.5 * weights + layers), **stages,
    }  # fmt: skip


def main() -> None:
    """Runs every network in a process of its own, prints and writes the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--gates", type=int, default=0)
    options.add_argument("--one", choices=NETWORKS, help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "conversion.md")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    if chosen.one:
        print(json.dumps(measured(chosen.one, chosen.steps, chosen.gates)))
        return
    lines = [
        "# Conversion",
        "",
        f"K = {chosen.steps}, {chosen.gates} gates, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}. Memory in MiB: the model's weights, what its layers put out "
        "on one batch,",
        "and the most that the conversion took beside the model; *bound*: weights and that, over "
        "2.5 times the weights and one batch.",
        "*Seconds* is the whole, with the correction of mean errors that the stages leave out.",
        "Command: `python benchmarks/conversion.py`.",
        "",
        "| network | images | sites | seconds | capture | calibrate | fit | weights | one batch "
        "| peak | bound |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in tqdm(chosen.networks, disable=None):
        numbers = ["--steps", str(chosen.steps), "--gates", str(chosen.gates)]
        command = [sys.executable, __file__, "--one", name, *numbers]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        side, count, _ = NETWORKS[name]
        times = " | ".join(f"{row[key]:.1f}" for key in ("seconds", *STAGES))
        sizes = " | ".join(f"{row[key] / 2**20:.0f}" for key in ("weights", "layers", "peak"))
        lines.append(
            f"| {name} | {count} x {side}² | {row['sites']} | {times} | {sizes} "
            f"| {row['ratio']:.2f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    with atomic_path(chosen.out) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
