"""Converts an image classifier into a few-spikes network and measures it step by step."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version

from arguments import (
    Parser,
    add_common,
    add_gates,
    at_least_zero,
    count,
    finite,
    fraction,
    place,
    positive,
    steps_or_auto,
    whole,
)
from command import leave, run_command

import convert
import models
from convert.fitting.methods import DEFAULT, EFFORTS, METHODS
from models.data import Loader
from models.devices import device_named


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    source = "cifar10, cifar100, a folder of class folders, or an .npz with x and y"
    result.add_argument("--model", required=True, help="a name of models.names()")
    result.add_argument("--weights", help="a checkpoint; 'random' for an untrained network")
    result.add_argument("--activation", choices=sorted(models.ACTIVATIONS))
    result.add_argument("--data", required=True, help=f"test images: {source}")
    result.add_argument("--calibration", required=True, help=f"calibration images: {source}")
    result.add_argument("--calibration-size", type=whole, default=512, metavar="N")
    result.add_argument("--root", default="data", help="where torchvision keeps downloads")
    result.add_argument(
        "--steps",
        required=True,
        type=steps_or_auto,
        nargs="+",
        metavar="K",
        help="or auto: K per site",
    )
    result.add_argument(
        "--max-loss", type=fraction, help="with auto: relative squared output error"
    )
    result.add_argument("--budget", type=whole, metavar="N", help="with auto: steps of all sites")
    result.add_argument(
        "--budget-spikes",
        type=positive,
        metavar="N",
        help="with auto: events per neuron of the network",
    )
    result.add_argument(
        "--budget-operations",
        type=positive,
        metavar="N",
        help="with auto: operations for one image",
    )
    result.add_argument(
        "--budget-energy", type=positive, metavar="NJ", help="with auto: nanojoules for one image"
    )
    add_gates(result)
    result.add_argument(
        "--spike-cost",
        type=at_least_zero,
        default=0.0,
        metavar="PRICE",
        help="of one event per neuron, in the unit of the outputs' relative squared error; "
        "with auto, K and gates are chosen for the fewest events",
    )
    result.add_argument(
        "--pareto",
        type=at_least_zero,
        nargs="+",
        metavar="PRICE",
        help="also fit the network with these prices of spikes; events against error in a table, "
        "pareto.json and pareto.png",
    )
    result.add_argument("--method", choices=sorted(METHODS), default=DEFAULT)
    result.add_argument("--effort", choices=EFFORTS, default="normal")
    result.add_argument(
        "--encode",
        nargs="?",
        const=True,
        default=False,
        choices=["all"],
        help="neurons on analog operands of multiplications; 'all': on the image too",
    )
    result.add_argument(
        "--plain", action="store_true", help="leave the layers' mean errors in their biases"
    )
    result.add_argument(
        "--normalisation",
        action="store_true",
        help="layer, group, instance and RMS norms as neurons for their squares and inverse roots",
    )
    result.add_argument(
        "--max-pool",
        nargs="?",
        const=True,
        default=False,
        choices=["first"],
        help="max pooling and row maxima as tournaments of ReLUs; 'first': poolings come before "
        "the monotone activation that precedes them, and remain",
    )
    result.add_argument("--limit", type=whole, metavar="N", help="test on N images only")
    result.add_argument("--batch-size", type=whole, default=250, metavar="N")
    result.add_argument("--by-site", type=count, default=64, metavar="N", help="images; 0 for none")
    result.add_argument(
        "--audit", action="store_true", help="also list what really ran outside the neurons"
    )
    result.add_argument("--device", default="cpu")
    result.add_argument("--mean", type=finite, nargs="+")
    result.add_argument("--std", type=positive, nargs="+")
    result.add_argument("--size", type=whole, help="side of the model's input in pixels")
    result.add_argument("--classes", type=whole)
    add_common(result)
    result.add_argument("--output", required=True, type=place, metavar="DIR")
    return result


def settings(options: argparse.Namespace) -> convert.ConversionSettings:
    """What conversion is asked for."""
    return convert.ConversionSettings(
        steps=options.steps if options.steps != ["auto"] else "auto",
        max_loss=options.max_loss,
        budget=options.budget,
        budget_spikes=options.budget_spikes,
        budget_operations=options.budget_operations,
        budget_energy=options.budget_energy,
        spike_cost=options.spike_cost,
        seed=options.seed,
        method=options.method,
        gates=options.gates,
        effort=options.effort,
        sequential=not options.plain,
        encode=options.encode,
        normalisation=options.normalisation,
        max_pool=options.max_pool,
    )


def run(options: argparse.Namespace) -> None:
    """Converts, evaluates, prints and writes the report."""
    asked = settings(options)
    device = device_named(options.device)
    for source in (options.data, options.calibration):
        models.check_source(source)
    preprocessing = models.with_options(
        models.preprocessing(options.model),
        size=options.size,
        mean=options.mean and tuple(options.mean),
        std=options.std and tuple(options.std),
        classes=options.classes,
    )
    model = models.get(
        options.model,
        options.weights,
        options.activation,
        preprocessing.classes,
        seed=options.seed,
    )
    sources = {"root": options.root, "progress": not options.quiet}
    test = models.load_images(options.data, train=False, **sources).limited(options.limit)
    test.check_labels(preprocessing.classes)
    calibration = models.load_images(options.calibration, train=True, **sources)
    calibration = calibration.sample(options.calibration_size, options.seed)
    print(f"seed {options.seed}, {preprocessing}", flush=True)
    snn = convert.to_spiking(
        model.to(device),
        Loader(calibration, preprocessing, options.batch_size),
        **asked.to_dict(),
        progress=not options.quiet,
    )
    print(f"\n{snn.report}\n", flush=True)
    if options.audit:
        batch = next(iter(Loader(calibration, preprocessing, 2)))
        print(f"{convert.audit(snn, batch)}\n", flush=True)
    result = convert.evaluate(
        snn,
        model,
        Loader(test, preprocessing, options.batch_size),
        by_site=options.by_site,
        progress=not options.quiet,
    )
    print(result)
    result.to_json(
        options.output / "report.json",
        model=options.model,
        preprocessing=preprocessing.to_dict(),
        versions={"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "torchvision", "spikingjelly", "numpy")},
    )
    result.plot(options.output / "steps.png")
    curve = []
    if options.pareto:
        trade_off = convert.pareto(
            snn,
            Loader(test, preprocessing, options.batch_size),
            calibration=Loader(calibration, preprocessing, options.batch_size),
            spike_costs=options.pareto,
            steps=None if options.steps == ["auto"] else options.steps,
            progress=not options.quiet,
        )
        print(f"\n{trade_off}")
        curve = [options.output / "pareto.json", options.output / "pareto.png"]
        trade_off.to_json(curve[0])
        trade_off.plot(curve[1])
    saved = options.output / f"{options.model}.fsnn"
    snn.save(
        saved,
        metadata={
            "model": options.model,
            "activation": options.activation,
            "preprocessing": preprocessing.to_dict(),
            **({"classes": list(calibration.classes)} if calibration.classes else {}),
        },
    )
    written = [options.output / "report.json", options.output / "steps.png", saved, *curve]
    print(f"\nwritten: {', '.join(map(str, written))}")


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(
        parser(),
        run,
        writes=lambda o: [
            "report.json",
            "steps.png",
            f"{o.model}.fsnn",
            *(["pareto.json", "pareto.png"] if o.pareto else []),
        ],
    )


if __name__ == "__main__":
    leave(main())
