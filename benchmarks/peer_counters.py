"""What SpikingJelly's and NeuroBench's counters find in a converted network, beside our own counts.

Run ``python benchmarks/peer_counters.py resnet20 --weights FILE --data SOURCE --calibration
SOURCE`` from the project's folder; needs ``neurobench`` (the extra ``peers``). It prints a table in
Markdown; all figures are those of one image, as a mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import torch
from neurobench.benchmarks import Benchmark
from neurobench.metrics.static import Footprint
from neurobench.metrics.workload import (
    ActivationSparsity,
    ClassificationAccuracy,
    MembraneUpdates,
    SynapticOperations,
)
from neurobench.models import TorchModel
from spikingjelly.activation_based.op_counter import (
    ACCounter,
    DispatchCounterMode,
    MACCounter,
    ModuleCounterMode,
    NeuromorphicMemoryAccessCounter,
    SynOpCounter,
    estimate_simple_energy,
)
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import models
from convert import SpikingModel, to_spiking
from convert.inspect import as_spiking_module, energy, simulate
from convert.inspect.spiking_module import SpikeBySpike, Spikes
from models.data import Loader

# NeuroBench adds up a call's operations in float32, which holds whole numbers up to 2^24.
BATCH = 4
HEAD = ("of one image", "here", "SpikingJelly", "NeuroBench")

Figures = dict[str, tuple[float | None, float | None, float | None]]


def figures(snn: SpikingModel, images: Tensor, labels: Tensor) -> Figures:
    """What we, SpikingJelly and NeuroBench count, by what it is; None where one doesn't.

    Args:
        snn: a converted network.
        images: ``[N, ...]``.
        labels: class numbers ``[N]``.
    """
    simulation, module = simulate(snn, images, progress=False), as_spiking_module(snn)
    counts, price = simulation.counts, energy(simulation.counts)
    jelly, bench = _spikingjelly(module, images), _neurobench(module, images, labels)
    synaptic = bench["SynapticOperations"]
    ticks = counts.steps + (counts.gates > 0)
    events = counts["events"]
    size = next(p.element_size() for p in module.parameters())
    weights = None if counts.weights is None else float(counts.weights * size)
    right = (simulation.outputs.argmax(1) == labels).float().mean()
    return {
        "accumulates": (counts["accumulates"], jelly["synop"], synaptic["Effective_ACs"]),
        "multiply-accumulates": (
            counts["multiply_accumulates"],
            jelly["mac"],
            synaptic["Effective_MACs"],
        ),
        "weights read": (counts["weight_reads"], jelly["weights"], None),
        "other additions": (
            counts["scalings"] + counts["additions"] + events,
            jelly["ac"] - jelly["synop"],
            None,
        ),
        "products by d": (counts["scalings"], None, None),
        "comparisons in neurons": (counts["neuron_updates"] - events, None, None),
        "dense operations": (counts["dense_multiply_accumulates"], None, synaptic["Dense"]),
        "events per neuron": (
            counts.spikes_per_neuron,
            None,
            (1 - bench["ActivationSparsity"]) * ticks,
        ),
        "bytes of weights": (weights, None, bench["Footprint"]),
        "arithmetic, nJ": (
            price.cost("arithmetic", "spiking", "float32").usual,
            jelly["compute_nj"],
            None,
        ),
        "with memory, nJ": (
            price.cost("with_memory", "spiking", "float32").usual,
            jelly["total_nj"],
            None,
        ),
        "accuracy": (float(right), None, bench["ClassificationAccuracy"]),
    }


def _spikingjelly(module: SpikeBySpike, images: Tensor) -> dict[str, float]:
    """Of one image."""
    counters = {"synop": SynOpCounter(), "mac": MACCounter(), "ac": ACCounter()}
    with DispatchCounterMode(list(counters.values())):
        module(images)
    memory = NeuromorphicMemoryAccessCounter()
    with ModuleCounterMode([memory], model=module):
        module(images)
    size = next(p.element_size() for p in module.parameters())
    found: dict[str, float] = {name: c.get_total() for name, c in counters.items()}
    found["weights"] = memory.get_counts()["Global"]["weight_read_bytes"] / size
    report = estimate_simple_energy(module, images)
    found["compute_nj"] = report.energy_compute_pj / 1000
    found["total_nj"] = report.energy_total_pj / 1000
    return {name: value / len(images) for name, value in found.items()}


def _neurobench(module: SpikeBySpike, images: Tensor, labels: Tensor) -> dict[str, Any]:
    model = TorchModel(module)
    model.add_activation_module(Spikes)
    loader = DataLoader(TensorDataset(images, labels), BATCH)
    metrics = [
        [Footprint],
        [ActivationSparsity, ClassificationAccuracy, MembraneUpdates, SynapticOperations],
    ]
    found: dict[str, Any] = Benchmark(model, loader, [], [lambda y: y.argmax(1)], metrics).run(
        quiet=True
    )
    return found


def table(found: Figures) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield f"| {' | '.join(HEAD)} |"
    yield "|---|---:|---:|---:|"
    for name, values in found.items():
        yield f"| {name} | {' | '.join(map(_shown, values))} |"


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3f}"


def main() -> int:
    """Converts, counts and prints."""
    parser = argparse.ArgumentParser(description="Counts of three tools side by side.")
    parser.add_argument("model", help="a name in models")
    parser.add_argument("--weights", help="a checkpoint; else those of the package")
    parser.add_argument("--data", default="cifar10", help="test images (a SOURCE)")
    parser.add_argument("--calibration", default="cifar10", help="training images (a SOURCE)")
    parser.add_argument("--calibration-size", type=int, default=512)
    parser.add_argument("--limit", type=int, default=100, help="test images")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--gates", type=int, default=0)
    given = parser.parse_args()
    preprocessing = models.preprocessing(given.model)
    calibration = models.load_images(given.calibration, train=True).first(given.calibration_size)
    test = models.load_images(given.data).first(given.limit)
    more: dict[str, Any] = {"gates": given.gates} if given.gates else {}
    snn = to_spiking(
        models.get(given.model, weights=given.weights),
        Loader(calibration, preprocessing),
        steps=given.steps,
        **more,
    )
    batches = list(Loader(test, preprocessing))
    images, labels = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    print(f"{given.model}, K = {given.steps}, {given.gates} gates, {len(images)} images\n")
    print("\n".join(table(figures(snn, images, labels))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
