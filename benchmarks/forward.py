"""Times a forward pass of the original and of the spiking network; writes a table.

All runs of a network are interleaved and the table holds medians, as ratios to the original's run
beside them. For ResNet-20 SpikingJelly's rate-coded conversion is timed too, and with --data its
agreement is measured. Weights are random where no checkpoint is given.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch
import torchvision
from spikingjelly.activation_based import ann2snn, functional
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn
from tqdm import tqdm

import models
from convert import SpikingModel, to_spiking
from convert.common.files import atomic_path
from convert.neuron import fused as kernel
from models.data import Loader

STEPS = (4, 8, 16)
# Batch and side of the images.
NETWORKS = {
    "resnet20": (250, 32),
    "resnet50": (8, 112),
    "vit_tiny": (250, 32),
    "efficientnet_b0": (8, 112),
}
KINDS = (
    "spiking",
    "with counts",
    "no compiler",
    "plain loop",
    "FewSpikeNode",
)


def network(name: str, weights: str | None) -> nn.Module:
    """A network in eval mode; batch norm's statistics are those of noise without a checkpoint."""
    torch.manual_seed(0)
    if name in ("resnet20", "vit_tiny"):
        return models.get(name, weights or "random", None, 10).eval()
    return torchvision.models.get_model(name, weights=None).eval()


@contextmanager
def plain_loop() -> Iterator[None]:
    """The definition, step by step, in torch."""
    with mock.patch.object(kernel, "usable", lambda _: False):
        yield


@contextmanager
def no_compiler() -> Iterator[None]:
    """As on a machine where nothing can be compiled."""
    with mock.patch.object(kernel, "_compiled", lambda *_: False):
        yield


class Shifted(nn.Module):
    """SpikingJelly's node, and y0, which it hasn't."""

    def __init__(self, node: nn.Module, offset: float) -> None:
        super().__init__()
        self.node, self.offset = node, offset

    def forward(self, x: Tensor) -> Tensor:
        """Decoded output."""
        y: Tensor = self.node(x)
        return y + self.offset if self.offset else y


def with_nodes(snn: SpikingModel) -> nn.Module:
    """The same graph with SpikingJelly's neurons."""
    network_ = copy.deepcopy(snn.network)
    for name, path in snn.names.items():
        neuron = snn.sites[name]
        parent, _, leaf = path.rpartition(".")
        node = sj_neuron.FewSpikeNode(neuron.to_table())
        setattr(network_.get_submodule(parent), leaf, Shifted(node, float(neuron.offset)))
    return network_


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times of every run, one round after the other, after a first one that isn't counted."""
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(seconds(run))
    return found


def ratios(found: dict[str, list[float]], base: str = "original") -> dict[str, float]:
    """Median over the rounds of each run's time over that of the base."""
    return {
        name: statistics.median(a / b for a, b in zip(times, found[base], strict=True))
        for name, times in found.items()
    }


def timings(
    name: str, weights: str | None, rounds: int
) -> tuple[float, dict[int, dict[str, float]]]:
    """Seconds of the original, and for every K the ratio of every kind of run to it."""
    batch, side = NETWORKS[name]
    model = network(name, weights)
    x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    snn = to_spiking(model, x[:64], steps=list(STEPS), method="binary", progress=False)
    result, originals = {}, []
    for k in STEPS:
        with nullcontext() if k == snn.steps else snn.with_steps(k):
            nodes = with_nodes(snn)

            def run(context: Callable[[], object] = nullcontext) -> None:
                with context():  # type: ignore[attr-defined]
                    snn(x)

            runs: dict[str, Callable[[], object]] = {
                "original": lambda: model(x),
                "spiking": run,
                "with counts": lambda: run(snn.count_spikes),
                "no compiler": lambda: run(no_compiler),
                "plain loop": lambda: run(plain_loop),
                "FewSpikeNode": lambda nodes=nodes: nodes(x),
            }
            found = interleaved(runs, rounds)
        result[k] = ratios(found)
        originals += found["original"]
    return statistics.median(originals), result


def convolved(model: nn.Module) -> nn.Module:
    """ResNet-20 with its shortcuts as convolutions of 0 and 1: the recipe refuses padding."""
    for module in model.modules():
        shortcut = getattr(module, "shortcut", None)
        if shortcut is None or isinstance(shortcut, nn.Identity):
            continue
        channels = module.conv1.in_channels
        layer = nn.Conv2d(channels, module.conv1.out_channels, 1, 2, bias=False)
        layer.weight.zero_()
        for i in range(channels):
            layer.weight[shortcut.before + i, i] = 1.0
        module.shortcut = layer
    return model


def rate_network(model: nn.Module, calibration: list[tuple[Tensor, Tensor]]) -> nn.Module:
    """SpikingJelly's rate-coded conversion of ResNet-20, which works one time step a call."""
    recipe = ann2snn.RateCodingRecipe(
        dataloader=calibration, mode="99.9%", channel_wise=True, half_threshold=True
    )
    return ann2snn.Converter(recipe).convert(convolved(copy.deepcopy(model))).eval()


def rate_coded(
    weights: str | None, calibration: list[tuple[Tensor, Tensor]], x: Tensor, steps: int
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The rate-coded ResNet-20 and its forward pass of so many time steps."""
    model = network("resnet20", weights)
    snn = rate_network(model, calibration)

    def run(images: Tensor) -> Tensor:
        functional.reset_net(snn)
        total = snn(images)
        for _ in range(steps - 1):
            total = total + snn(images)
        return total

    return model, run


def written(lines: list[str], path: Path) -> None:
    """Prints the table and writes it."""
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Measures, prints and writes the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--resnet20", metavar="CHECKPOINT")
    options.add_argument("--vit-tiny", metavar="CHECKPOINT")
    options.add_argument("--data", metavar="SOURCE", help="test images for the agreement")
    options.add_argument("--calibration", metavar="SOURCE", help="for the rate-coded network")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--rate-steps", type=int, default=128)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "forward.md")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    kernel.WORTH_COMPILING = 0
    lines = [
        "# Forward pass",
        "",
        "Time over that of the original network in eager mode: medians of "
        f"{chosen.rounds} interleaved rounds, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}.",
        "*No compiler*: blocks in torch. *Plain loop*: the definition. *FewSpikeNode*: "
        "SpikingJelly's neuron in the same graph.",
        "Command: `python benchmarks/forward.py`.",
        "",
        "| network | batch | original, s | K | " + " | ".join(KINDS) + " |",
        "|---|---|---|---|" + "---|" * len(KINDS),
    ]
    given = {"resnet20": chosen.resnet20, "vit_tiny": chosen.vit_tiny}
    for name in tqdm(chosen.networks, disable=None):
        base, found = timings(name, given.get(name), chosen.rounds)
        batch, side = NETWORKS[name]
        for k, row in found.items():
            cells = " | ".join(f"{row[kind]:.2f}" for kind in KINDS)
            lines.append(f"| {name} | {batch} x {side}² | {base:.3f} | {k} | {cells} |")
    written(lines, chosen.out)
    if chosen.data and "resnet20" in chosen.networks:
        pre = models.preprocessing("resnet20")
        test = Loader(models.load_images(chosen.data, train=False, progress=False), pre, 250)
        calibration = models.load_images(chosen.calibration, train=True, progress=False)
        batches = list(Loader(calibration.sample(512, 0), pre, 128))
        images = list(test)
        x = images[0][0]
        model, rate = rate_coded(chosen.resnet20, batches, x, chosen.rate_steps)
        snn = to_spiking(model, batches, steps=8, progress=False)
        found_rate = interleaved({"spiking": lambda: snn(x), "rate": lambda: rate(x)}, 3)
        equal = {"few spikes": 0, "rate": 0}
        for batch_images, _ in images:
            expected = model(batch_images).argmax(1)
            equal["few spikes"] += int((snn(batch_images).argmax(1) == expected).sum())
            equal["rate"] += int((rate(batch_images).argmax(1) == expected).sum())
        count = sum(len(b) for b, _ in images)
        lines += [
            "",
            "SpikingJelly's rate-coded ResNet-20 (channel-wise 99.9 %, half threshold) at T = "
            f"{chosen.rate_steps} takes",
            f"{ratios(found_rate, 'spiking')['rate']:.0f} times as long as the few-spikes network "
            "at",
            f"K = 8, and agrees with the original on {equal['rate'] / count:.3f} of {count} "
            f"images; the few-spikes network on {equal['few spikes'] / count:.3f}.",
        ]
        written(lines, chosen.out)


if __name__ == "__main__":
    main()
