"""How far networks of the zoo carry errors of perfect neurons; writes a table.

Every site computes its exact function. Either its input is kept within so many times the calibrated
range, as a neuron keeps it that saturates there, or its output gets noise of so many times its
standard deviation. The networks, images and errors are those of ``zoo.py``. What comes out is the
least error that neurons of this range, or of this precision, can be expected to have.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import zoo
from torch import Tensor
from tqdm import tqdm

from convert import SpikingModel, to_spiking
from convert.common.files import atomic_path
from convert.graph.run import walk

RANGES, NOISES = (1.0, 3.0, 10.0), (1e-4, 1e-3)
BATCH = 16
# By site: its exact function's input and output as they are changed.
Change = Callable[[str, Callable[[Tensor], Tensor], Tensor], Tensor]


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("names", nargs="+", metavar="NAME", help="networks of torchvision")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    result.add_argument("--quiet", action="store_true")
    return result


def logits(snn: SpikingModel, images: Tensor, change: Change) -> Tensor:
    """Outputs ``[N, classes]`` of the exact functions, changed at every site."""
    modules = {}
    for site, path in snn.names.items():
        modules[path] = partial(change, site, snn.exact[path.rpartition(".")[2]])
    found = []
    with torch.no_grad():
        for part in images.split(BATCH):
            leaves = snn.signature.flatten((part,), {})
            found.append(walk(snn.network, leaves, modules=modules)[0])
    return torch.cat(found)


def kept_within(snn: SpikingModel, times: float) -> Change:
    """Inputs are kept within so many times the calibrated range, seen from its mean."""
    bounds = {}
    for site, seen in snn.histograms.items():
        mean = float(seen.centres @ (seen.counts / seen.total))
        low, high = mean + times * (seen.low - mean), mean + times * (seen.high - mean)
        bounds[site] = low, high
    return lambda site, function, x: function(x.clamp(*bounds[site]))


def noisy(share: float, seed: int) -> Change:
    """Outputs get normal noise of a share of their standard deviation."""
    generator = torch.Generator().manual_seed(seed)

    def changed(_: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        y = function(x)
        return y + share * y.std() * torch.randn(y.shape, generator=generator)

    return changed


def relative(found: Tensor, exact: Tensor) -> float:
    """Error of logits over their own size around each image's mean, root mean square."""
    size = exact - exact.mean(1, keepdim=True)
    return math.sqrt(float((found - exact).square().mean() / size.square().mean()))


def farthest(snn: SpikingModel, images: Tensor) -> float:
    """How many times as far as the calibrated range the values of a site reach, at most."""
    most = [1.0]

    def seen(site: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        known = snn.histograms[site]
        for bound, value in ((known.low, float(x.min())), (known.high, float(x.max()))):
            if bound * value > 0:
                most.append(value / bound)
        return function(x)

    logits(snn, images, seen)
    return max(most)


def row(name: str, seed: int) -> str:
    """A network's row of the table."""
    side = zoo.SIDES.get(name, zoo.SIDE)
    model = zoo.model_of(name, seed)
    random = torch.Generator().manual_seed(seed + 1)
    known, new = torch.randn(2 * zoo.IMAGES, 3, side, side, generator=random).split(zoo.IMAGES)
    zoo.set_statistics(model, known)
    # The exact functions and the ranges alone are wanted, whatever the neurons are.
    snn = to_spiking(
        model, list(known.split(BATCH)), steps=1, method="binary", sequential=False, progress=False
    )
    exact = logits(snn, new, lambda _, function, x: function(x))
    with torch.no_grad():
        original = torch.cat([model(part) for part in new.split(BATCH)])
    cells = [relative(original, exact)]
    cells += [relative(logits(snn, new, kept_within(snn, times)), exact) for times in RANGES]
    cells += [relative(logits(snn, new, noisy(share, seed)), exact) for share in NOISES]
    shown = " | ".join(f"{cell:.2g}" if cell < 0.01 else f"{cell:.3f}" for cell in cells)
    return f"| {name} | {farthest(snn, new):.0f} | {shown} |"


def main() -> None:
    """Measures the networks and writes the table."""
    options = parser().parse_args()
    print(f"seed {options.seed}")
    rows = []
    for name in tqdm(options.names, "limits", disable=True if options.quiet else None):
        rows.append(row(name, options.seed))
        print(rows[-1], flush=True)
    ranges = " | ".join(f"{times:g} times the range" for times in RANGES)
    noises = " | ".join(f"noise {share:g}" for share in NOISES)
    text = [
        "# What networks of the zoo do with the errors of perfect neurons",
        "",
        "Relative errors of the logits on 64 images that calibration hasn't seen, as in",
        "[the zoo](../docs/zoo.md), with the exact function at every site: in float32 and another",
        "order of operations; with inputs kept within so many times the calibrated range; and with",
        "noise at every site's output, over its standard deviation. *Reach*: how far the largest",
        "value of a site goes beyond the calibrated range, as a factor. Written by",
        f"`python benchmarks/zoo_limits.py {' '.join(options.names)}`, seed {options.seed},",
        f"torch {torch.__version__}.",
        "",
        f"| network | reach | float32 | {ranges} | {noises} |",
        "|---" * (3 + len(RANGES) + len(NOISES)) + "|",
        *rows,
        "",
    ]
    with atomic_path(options.out) as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
