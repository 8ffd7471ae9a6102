"""Sets the usual way to spikes, rate coding, beside few-spikes neurons; writes a table.

The same ResNet-20, the same calibration images and the same test images. The rate-coded network is
SpikingJelly's, with thresholds at 99.9 % of each channel's values, and potentials that begin at
half a threshold. It runs once for the most time steps, and is read out on the way.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from forward import network, rate_network, written
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn
from tqdm import tqdm

import models
from convert import evaluate, to_spiking
from models.data import Loader

READ_AT = (8, 16, 32, 64, 128, 256, 512)
# K and gates of the few-spikes networks.
FEW = ((4, 0), (8, 0), (4, 3))
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    network: str
    setting: str
    latency: int | None  # time steps from an image to its result
    interval: int | None  # time steps from one image to the next
    accuracy: float
    agreement: float | None = None
    spikes_per_neuron: float | None = None

    def __str__(self) -> str:
        shown = [self.network, self.setting, _shown(self.latency), _shown(self.interval)]
        shown += [f"{self.accuracy:.3f}", _shown(self.agreement, ".3f")]
        return f"| {' | '.join([*shown, _shown(self.spikes_per_neuron, '.2f')])} |"


def _shown(value: float | None, form: str = "d") -> str:
    return "" if value is None else format(value, form)


class SpikeCount:
    """Counts the spikes and the neurons of a rate-coded network, as it runs."""

    def __init__(self, snn: nn.Module) -> None:
        self._spikes, self._chances = 0.0, 0
        for module in snn.modules():
            if isinstance(module, neuron.HalfThresholdIFNode):
                module.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._spikes += float(output.sum())
        self._chances += output.numel()

    def per_neuron(self, steps: int) -> float:
        """Spikes per neuron and image, after so many time steps."""
        return self._spikes * steps / self._chances


def rate_rows(
    model: nn.Module, snn: nn.Module, x: Tensor, y: Tensor, read_at: tuple[int, ...]
) -> Iterator[Row]:
    """The rate-coded network's rows, one for each number of time steps.

    Args:
        model: the original.
        snn: rate-coded; called once for a time step.
        x: all test images.
        y: their classes.
        read_at: numbers of time steps.
    """
    expected, count, total = model(x).argmax(1), SpikeCount(snn), torch.zeros(())
    functional.reset_net(snn)
    for step in tqdm(range(1, max(read_at) + 1), mininterval=5):
        total = total + snn(x)
        if step in read_at:
            found = total.argmax(1)
            right, equal = ((found == other).double().mean() for other in (y, expected))
            spikes = count.per_neuron(step)
            yield Row("rate coding", f"T = {step}", step, step, float(right), float(equal), spikes)


def few_rows(model: nn.Module, calibration: Batches, test: Batches) -> Iterator[Row]:
    """The original's row, and those of the few-spikes networks."""
    for steps, gates in FEW:
        snn = to_spiking(model, calibration, steps=steps, gates=gates, progress=False)
        found = evaluate(snn, model, test, by_site=0, progress=False)
        if (steps, gates) == FEW[0]:
            yield Row("original", "", None, None, found.original.accuracy)
        yield Row(
            "few spikes",
            f"K = {steps}" + (f", {gates} gates" if gates else ""),
            snn.report.latency_steps,
            steps + bool(gates),
            found.spiking.accuracy,
            found.spiking.agreement,
            found.spiking.spikes_per_neuron,
        )


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--weights", required=True, metavar="CHECKPOINT", help="of resnet20")
    result.add_argument("--data", default="cifar10", metavar="SOURCE", help="test images")
    result.add_argument("--calibration", default="cifar10", metavar="SOURCE")
    result.add_argument("--limit", type=int, default=1000, metavar="N", help="of test images")
    result.add_argument("--read-at", type=int, nargs="+", default=READ_AT, metavar="T")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "rate_coding.md")
    return result


def main() -> None:
    """Measures, prints and writes the table."""
    chosen = parser().parse_args()
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    prepare, model = models.preprocessing("resnet20"), network("resnet20", chosen.weights)
    images = models.load_images(chosen.data, train=False, progress=False).first(chosen.limit)
    train = models.load_images(chosen.calibration, train=True, progress=False)
    ((x, y),) = Loader(images, prepare, len(images))
    calibration = list(Loader(train.sample(512, 0), prepare, 128))
    lines = [
        "# Beside rate coding",
        "",
        f"ResNet-20 with ReLU on CIFAR-10: 512 calibration images, {len(images)} test images. Rate "
        "coding is SpikingJelly's",
        "(thresholds at 99.9 % of each channel's values, potentials that begin at half a "
        "threshold). *Latency*: time steps",
        "from an image to its result. *Interval*: time steps from one image to the next, when the "
        "layers work as a pipeline.",
        "Values above a threshold are cut, which bounds what more time steps can bring.",
        f"Command: `python benchmarks/rate_coding.py --weights resnet20.th --limit {len(images)}`.",
        "",
        "| network | setting | latency | interval | accuracy | agreement | spikes per neuron |",
        "|---|---|---|---|---|---|---|",
    ]
    rates = rate_rows(model, rate_network(model, calibration), x, y, tuple(chosen.read_at))
    for row in chain(rates, few_rows(model, calibration, [(x, y)])):
        lines.append(str(row))
        written(lines, chosen.out)


if __name__ == "__main__":
    main()
