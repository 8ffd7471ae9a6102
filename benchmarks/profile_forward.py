"""Says where the time of a spiking forward pass goes, by torch.profiler.

The compiled neurons run outside torch's dispatcher: they are bracketed by name.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

import models
from convert import to_spiking
from convert.common.tables import table
from convert.neuron import fused as kernel

NEURONS = "few-spikes neurons"


def main() -> None:
    """Profiles and prints the largest shares."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="resnet20_silu", choices=models.names())
    options.add_argument("--weights", help="'random' for an untrained network")
    options.add_argument("--batch-size", type=int, default=250)
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--rows", type=int, default=8)
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    kernel.WORTH_COMPILING = 0
    side, classes = models.preprocessing(chosen.model).size, 10
    model = models.get(chosen.model, chosen.weights, None, classes).eval()
    x = torch.randn(chosen.batch_size, 3, side, side)
    snn = to_spiking(model, x[:64], steps=chosen.steps, method="binary", progress=False)
    run: Callable[..., tuple[Tensor, int]] = kernel.run

    def bracketed(*args: object, **kwargs: object) -> tuple[Tensor, int]:
        with record_function(NEURONS):
            return run(*args, **kwargs)

    with mock.patch.object(kernel, "run", bracketed):
        for _ in range(2):
            snn(x)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            snn(x)
    rows = [(e.key, e.self_cpu_time_total / 1000, e.count) for e in found.key_averages()]
    total = sum(row[1] for row in rows)
    rows.sort(key=lambda row: -row[1])
    shown = [(name, f"{ms:.1f}", f"{ms / total:.1%}", n) for name, ms, n in rows[: chosen.rows]]
    print(table(("operation", "ms", "share", "calls"), shown))
    print(f"\n{total:.0f} ms in all")


if __name__ == "__main__":
    main()
