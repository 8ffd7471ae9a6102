"""Times a network, its spiking network and SpikingJelly's nodes in its place on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from forward import with_nodes
from gpu_bits import Tell, first_line
from torch import Tensor, nn

import models
from convert import SpikingModel, to_spiking

_MOST_ROUNDS = 15


@dataclass(frozen=True)
class Network:
    """A network that is timed.

    Args:
        name: of this project's or torchvision's.
        batch, side: images, and their height and width.
        calibration: images, and how many a batch.
        modes: ``fp32``, or ``bf16`` under autocast.
        weight: its share of the time.
    """

    name: str
    batch: int
    side: int
    calibration: tuple[int, int]
    modes: tuple[str, ...]
    weight: float


NETWORKS = (
    Network("resnet20", 256, 32, (512, 128), ("fp32",), 1.0),
    Network("resnet50", 256, 224, (128, 32), ("fp32", "bf16"), 2.0),
    Network("vit_b_16", 128, 224, (64, 16), ("fp32",), 1.5),
)


def build(name: str) -> nn.Module:
    """A network with random weights in eval mode."""
    torch.manual_seed(0)
    if name in ("resnet20", "vit_tiny"):
        return models.get(name, "random", None, 10).eval()
    model = torchvision.models.get_model(name, weights=None).eval()
    head = getattr(getattr(model, "heads", None), "head", None)
    if head is not None:
        # It is zero at first, and so would all outputs be.
        nn.init.normal_(head.weight, std=0.02)
    return model


def noise(count: int, side: int, device: torch.device) -> Tensor:
    """Images of noise, channels last."""
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return x.to(device, memory_format=torch.channels_last)


def synchronise(device: torch.device) -> None:
    """Waits for what was given to a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device: torch.device, run: Callable[[], object]) -> float | None:
    """The most memory that tensors had during a run, in MiB; None on the CPU."""
    if device.type != "cuda":
        run()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def timed(device: torch.device, run: Callable[[], object]) -> float:
    """Seconds of one run."""
    synchronise(device)
    begin = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - begin


@contextmanager
def mode(name: str, device: torch.device) -> Iterator[None]:
    """No gradients, and autocast for ``bf16``."""
    cast: AbstractContextManager[Any] = nullcontext()
    if name == "bf16":
        cast = torch.autocast(device.type, dtype=torch.bfloat16)
    with torch.no_grad(), cast:
        yield


def with_triton(nodes: nn.Module) -> bool:
    """Switches SpikingJelly's nodes to their Triton backend; False if they have none."""
    found = False
    for module in nodes.modules():
        if "triton" in getattr(module, "supported_backends", ()):
            module.backend = "triton"
            found = True
    return found


def ways(model: nn.Module, snn: SpikingModel, x: Tensor) -> dict[str, Callable[[], object]]:
    """Everything that is timed, by its name."""

    def counted() -> None:
        with snn.count_spikes():
            snn(x)

    nodes, fast = with_nodes(snn), with_nodes(snn)
    found: dict[str, Callable[[], object]] = {
        "original": lambda: model(x),
        "spiking": lambda: snn(x),
        "with counts": counted,
        "FewSpikeNode": lambda: nodes(x),
    }
    if with_triton(fast):
        found["FewSpikeNode, Triton"] = lambda: fast(x)
    return found


def rounds(
    runs: dict[str, Callable[[], object]], device: torch.device, end: float
) -> dict[str, dict[str, Any]]:
    """Medians and peaks of every run, one round after the other; one that fails drops out."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in runs}
    going = dict(runs)
    for number in range(_MOST_ROUNDS + 1):
        for name, run in list(going.items()):
            try:
                # The first round warms up, and tells the memory.
                if not number:
                    run()
                    found[name]["peak"] = peak(device, run)
                else:
                    found[name]["seconds"].append(timed(device, run))
            except Exception as error:
                found[name]["error"] = first_line(error)
                del going[name]
        if number and time.perf_counter() > end:
            break
    for row in found.values():
        times = row.pop("seconds")
        if times:
            row |= {"median": statistics.median(times), "rounds": len(times)}
    return found


def measure(network: Network, device: torch.device, seconds: float, tell: Tell) -> None:
    """Converts a network and times it in every mode."""
    begin = time.perf_counter()
    model = build(network.name).to(device, memory_format=torch.channels_last)
    count, batch = network.calibration
    images = list(noise(count, network.side, device).split(batch))
    made: list[SpikingModel] = []

    def convert() -> None:
        made.append(to_spiking(model, images, steps=8, method="binary", progress=False))

    started = time.perf_counter()
    most = peak(device, convert)
    tell(
        {
            "kind": "conversion",
            "name": network.name,
            "images": count,
            "seconds": time.perf_counter() - started,
            "peak": most,
        }
    )
    snn, x = made[0], noise(network.batch, network.side, device)
    for number, name in enumerate(network.modes):
        left = begin + seconds - time.perf_counter()
        end = time.perf_counter() + left / (len(network.modes) - number)
        with mode(name, device):
            found = rounds(ways(model, snn, x), device, end)
        tell({"kind": "times", "name": network.name, "mode": name, "batch": network.batch} | found)
