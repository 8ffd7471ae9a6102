"""Draws the pictures of docs/spikes.md: what a network does spike by spike, and how it may fail.

Run ``python benchmarks/spike_pictures.py --data cifar10 --calibration cifar10`` from the project's
folder. It fits the network twice, which takes some minutes: once as it should be, and once with a
single step at one site, for the picture of a fault.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import models
from convert import SpikingModel, refit, to_spiking
from convert.inspect import (
    correlate,
    plot_correlation,
    plot_membrane,
    plot_raster,
    plot_rates,
    simulate,
)
from models.data import Loader


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    source = "cifar10, cifar100, a folder of class folders, or an .npz with x and y"
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--model", default="resnet20_silu", help="a name of models.names()")
    result.add_argument("--data", required=True, help=f"images that are run: {source}")
    result.add_argument("--calibration", required=True, help=f"calibration images: {source}")
    result.add_argument("--calibration-size", type=int, default=512, metavar="N")
    result.add_argument("--root", default="data", help="where torchvision keeps downloads")
    result.add_argument("--images", type=int, default=20, metavar="N")
    result.add_argument("--steps", type=int, default=4, metavar="K")
    result.add_argument("--gates", type=int, default=3)
    result.add_argument("--site", default="layer2.0.act2", help="in raster.png and membrane.png")
    result.add_argument("--neuron", type=int, default=2410, help="in membrane.png")
    result.add_argument("--fault", default="layer2.0.act1", help="gets a single step")
    result.add_argument(
        "--correlated",
        nargs="+",
        default=["layer1.2.act2", "layer2.0.*", "layer2.1.*", "layer3.2.act2"],
        help="sites in correlation.png",
    )
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--output", type=Path, default=Path("docs"), metavar="DIR")
    return result


def main() -> int:
    """Fits, runs, draws, and prints the diagnoses."""
    options = parser().parse_args()
    preprocessing = models.preprocessing(options.model)
    model = models.get(options.model, None, None, preprocessing.classes, seed=options.seed)
    calibration = models.load_images(options.calibration, train=True, root=options.root)
    calibration = calibration.sample(options.calibration_size, options.seed)
    loader = Loader(calibration, preprocessing, 250)
    images = models.load_images(options.data, train=False, root=options.root)
    batch = next(iter(Loader(images.first(options.images), preprocessing, options.images)))
    print(f"seed {options.seed}, {preprocessing}", flush=True)
    snn = to_spiking(
        model, loader, steps=options.steps, gates=options.gates, seed=options.seed, progress=False
    )
    draw_run(snn, batch, options)
    print(correlate(snn, model, batch, progress=False).diagnosis, flush=True)
    fault = {options.fault: 1}, {options.fault: 0}
    faulty = refit(snn, loader, per_site_steps=fault[0], per_site_gates=fault[1], progress=False)
    found = correlate(faulty, model, batch, progress=False)
    print(f"\nK = 1 at {options.fault}:\n{found}")
    plot_correlation(found, options.output / "correlation.png", options.correlated)
    return 0


def draw_run(snn: SpikingModel, batch: object, options: argparse.Namespace) -> None:
    """The pictures of a simulation."""
    run = simulate(snn, batch, record=options.site, progress=False)
    print(run, flush=True)
    plot_raster(run, options.site, options.output / "raster.png", images=4, seed=options.seed)
    plot_membrane(run, options.site, options.neuron, path=options.output / "membrane.png")
    plot_rates(run, options.output / "rates.png")


if __name__ == "__main__":
    sys.exit(main())
