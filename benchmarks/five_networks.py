"""Converts five networks with the same setting, and writes one table of what that gives.

Networks whose data isn't given are left out. Seconds are those of the processor, for the conversion
alone (capture, calibration, fit, corrections): other programs on the machine don't add to them.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import models
from convert import evaluate, to_spiking
from convert.common.files import atomic_path
from models.data import Loader

STEPS, GATES = 4, 3
_LITE = f"{Path(__file__).parent / 'efficientnet_lite.py'}:lite1"


@dataclass(frozen=True)
class Task:
    """A network and its images: where they come from, and by what their classes are known."""

    shown: str
    model: str
    weights: str | None
    data: str
    calibration: str
    labels: str = "folder"


def tasks(chosen: argparse.Namespace) -> Iterator[Task]:
    """The networks whose data is given."""
    yield Task("ResNet-8, SiLU, digits", "resnet8_digits", None, "digits", "digits")
    cifar = chosen.data, chosen.calibration
    if chosen.data and chosen.resnet20:
        yield Task("ResNet-20, ReLU, CIFAR-10", "resnet20", chosen.resnet20, *cifar)
    if chosen.data:
        yield Task("ResNet-20, SiLU, CIFAR-10", "resnet20_silu", None, *cifar)
        yield Task("vision transformer, GELU, CIFAR-10", "vit_small", None, *cifar)
    if chosen.imagenet:
        imagenet = chosen.imagenet, chosen.imagenet_calibration, "name"
        yield Task("EfficientNet-Lite1, ReLU6, ImageNet", _LITE, None, *imagenet)


def processor_seconds() -> float:
    """Of this process and those that it started and that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def row(task: Task) -> str:
    """Converts one network and gives its line of the table."""
    model, prepare = models.get(task.model, task.weights), models.prepared(task.model)
    train = models.open_images(task.calibration, train=True, labels=task.labels)
    test = Loader(models.open_images(task.data, labels=task.labels), prepare, 100)
    few = Loader(train.sample_evenly(min(512, len(train)), 0), prepare, 64)
    begin = processor_seconds()
    snn = to_spiking(model, few, steps=STEPS, gates=GATES, progress=False)
    seconds = processor_seconds() - begin
    found = evaluate(snn, model, test, by_site=0, at=(), progress=False)
    cells = [
        task.shown,
        f"{found.images:,}",
        f"{found.original.accuracy:.3f}",
        f"{found.spiking.accuracy:.3f}",
        f"{found.spiking.agreement:.3f}",
        f"{found.spiking.spikes_per_neuron:.2f}",
        str(snn.report.latency_steps),
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--resnet20", metavar="CHECKPOINT")
    result.add_argument("--data", metavar="SOURCE", help="test images of CIFAR-10")
    result.add_argument("--calibration", metavar="SOURCE", help="training images of CIFAR-10")
    result.add_argument("--imagenet", metavar="SOURCE", help="test images, classes by file name")
    result.add_argument("--imagenet-calibration", metavar="SOURCE")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "five_networks.md")
    return result


def _words(chosen: argparse.Namespace) -> str:
    """The options that were given, with the names of files without their folders."""
    given = {name: value for name, value in vars(chosen).items() if value and name != "out"}
    return "".join(f" --{name.replace('_', '-')} {Path(v).name}" for name, v in given.items())


def main() -> None:
    """Measures, prints and writes the table, anew after each network."""
    chosen = parser().parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "# Five networks",
        "",
        f"K = {STEPS} with {GATES} gates, so {STEPS + 1} time steps a layer; up to 512 "
        "calibration images. *Agreement*: share of test images on which",
        "the spiking network and the original predict the same class. *Latency*: time steps from "
        "an image to its result. *Seconds*: of",
        f"the processor, for the conversion, on one thread of torch {torch.__version__}.",
        f"Command: `python benchmarks/five_networks.py{_words(chosen)}`.",
        "",
        "| network | test images | original | spiking | agreement | spikes per neuron | latency "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in tqdm(list(tasks(chosen)), disable=None):
        lines.append(row(task))
        print(lines[-1], flush=True)
        with atomic_path(chosen.out) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
