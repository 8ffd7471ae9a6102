"""What an evaluation site by site costs beside the passes through the network.

Run ``python benchmarks/by_site.py`` from the project's folder. A network of many tiny sites is
evaluated, and processor time inside the two networks' calls is taken from that of the whole.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convert import evaluate, to_spiking

WIDTH = 8


class Chain(nn.Module):
    """Linear layers of width 8, with a ReLU and a skip around each, and a head of 4 classes."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(sites))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, 4]`` of inputs ``[N, 8]``."""
        for layer in self.layers:
            x = x + 0.1 * torch.relu(layer(x))
        return self.head(x)


class Clock:
    """Processor time and number of the calls of some networks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def watch(self, network: nn.Module) -> None:
        """Adds the network's calls from now on."""
        network.forward = self._timed(network.forward)

    def _timed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            try:
                return forward(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - begin
                self.calls += 1

        return timed


def measured(sites: int, images: int, steps: int, seed: int) -> tuple[float, float, int]:
    """Processor seconds of the evaluation, of its passes, and their number."""
    torch.manual_seed(seed)
    model = Chain(sites).eval()
    x = torch.randn(images, WIDTH)
    snn = to_spiking(model, x, steps=steps, method="binary", progress=False)
    if len(snn.sites) != sites:
        raise RuntimeError(f"the network has {len(snn.sites)} sites, not {sites}")
    # The first call prepares the network's program and the neurons' machine code.
    evaluate(snn, model, x, by_site=0, at=[steps], progress=False)
    clock = Clock()
    clock.watch(snn)
    clock.watch(model)
    begin = time.process_time()
    evaluate(snn, model, x, by_site=images, at=[steps], progress=False)
    return time.process_time() - begin, clock.seconds, clock.calls


def main() -> int:
    """Measures and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=200, metavar="N")
    parser.add_argument("--images", type=int, default=64, metavar="N")
    parser.add_argument("--steps", type=int, default=4, metavar="K")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {options.seed}", flush=True)
    whole, passes, calls = measured(options.sites, options.images, options.steps, options.seed)
    print(
        f"{options.sites} sites, {options.images} images, K = {options.steps}: evaluation "
        f"{whole:.2f} s of processor time, {calls} passes {passes:.2f} s, beside them "
        f"{whole - passes:.2f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
