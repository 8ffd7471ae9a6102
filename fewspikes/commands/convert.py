"""What the commands that convert a model take, and what they print and write."""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .endings import first_process, processes, told_left_out
from .kinds import (
    DEFAULT_METHOD,
    EFFORTS,
    METHODS,
    add_common,
    add_gates,
    add_reading,
    at_least_zero,
    axis_name,
    count,
    finite,
    fraction,
    place,
    positive,
    steps_or_auto,
    whole,
)
from .output import check_room

if TYPE_CHECKING:
    import convert
    import models

INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest")
ACTIVATIONS = (
    "elu", "gelu", "hardswish", "leaky_relu", "mish", "relu", "sigmoid", "silu", "softplus", "tanh",
)  # fmt: skip
_SPEC = "a name of models.names(), torchvision:NAME, timm:NAME, hf:FOLDER_OR_NAME, or FILE.py:FUNCTION (the file is imported: its code runs)"  # noqa: E501
_SOURCE = "cifar10, cifar100, a folder or tar of class folders, shards with .cls files ('train-{000..099}.tar'), an .npz with x and y, or a text file (text.txt[0.9:1] is its last tenth)"  # noqa: E501
_LIBRARIES = {"timm": ("timm",), "hf": ("transformers",)}


def add_options(parser: argparse.ArgumentParser, *, batch_size: int) -> None:
    """Adds all options of a conversion.

    Args:
        parser: of the command.
        batch_size: where none is given.
    """
    _add_model(parser)
    _add_data(parser, batch_size)
    _add_conversion(parser)
    parser.add_argument("--by-site", type=count, default=64, metavar="N", help="images; 0 for none")
    parser.add_argument(
        "--audit", action="store_true", help="also list what really ran outside the neurons"
    )
    add_common(parser)
    parser.add_argument("--output", required=True, type=place, metavar="DIR")
    parser.add_argument(
        "--resume",
        type=_kept_place,
        metavar="DIR",
        help="keep every stage here; after a kill, the same command goes on from the last",
    )


def _kept_place(text: str) -> Path:
    """The folder of stages, which one process alone keeps."""
    if (several := processes()) > 1:
        raise argparse.ArgumentTypeError(
            f"stages are kept by one process alone, and torchrun started {several}; leave --resume "
            "out, or run one process"
        )
    return place(text)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="SPEC", help=_SPEC)
    parser.add_argument(
        "--weights",
        help="a checkpoint; 'random' for an untrained network; 'DEFAULT' for the library's own, "
        "which it downloads",
    )
    parser.add_argument("--activation", choices=ACTIVATIONS, help="of a CIFAR model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mean", type=finite, nargs="+")
    parser.add_argument("--std", type=positive, nargs="+")
    parser.add_argument("--size", type=whole, help="side of the model's input in pixels")
    parser.add_argument(
        "--resize", type=whole, help="shorter side of an image before its middle is cut out"
    )
    parser.add_argument("--interpolation", choices=INTERPOLATIONS, help="of --resize")
    parser.add_argument("--classes", type=whole)
    parser.add_argument("--tokenizer", help="'bytes', or a folder, zip or cached name")
    parser.add_argument(
        "--length", type=whole, metavar="TOKENS", help="of a block or a line of text"
    )


def _add_data(parser: argparse.ArgumentParser, batch_size: int) -> None:
    parser.add_argument("--data", required=True, metavar="SOURCE", help=f"for the test: {_SOURCE}")
    parser.add_argument("--calibration", required=True, metavar="SOURCE", help="to convert with")
    parser.add_argument("--calibration-size", type=whole, default=512, metavar="N")
    parser.add_argument(
        "--limit",
        type=whole,
        metavar="N",
        help="test on N only, drawn by --seed equally from every class; texts evenly from the file",
    )
    parser.add_argument(
        "--labels",
        default="folder",
        metavar="folder|name|FILE",
        help="what tells the class of an image: its folder's place in alphabetical order, its own "
        "name as a number, or a file that lists the class folders in the model's order",
    )
    parser.add_argument("--batch-size", type=whole, default=batch_size, metavar="N")
    add_reading(parser)
    parser.add_argument("--root", default="data", help="where torchvision keeps downloads")
    parser.add_argument(
        "--metric",
        choices=("accuracy", "output", "perplexity"),
        help="what is measured; accuracy, or of a language model perplexity, if left out",
    )


def _add_conversion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps",
        required=True,
        type=steps_or_auto,
        nargs="+",
        metavar="K",
        help="or auto: K per site",
    )
    parser.add_argument(
        "--max-loss", type=fraction, help="with auto: relative squared output error"
    )
    parser.add_argument("--budget", type=whole, metavar="N", help="with auto: steps of all sites")
    parser.add_argument(
        "--budget-spikes",
        type=positive,
        metavar="N",
        help="with auto: events per neuron of the network",
    )
    parser.add_argument(
        "--budget-operations",
        type=positive,
        metavar="N",
        help="with auto: operations for one image",
    )
    parser.add_argument(
        "--budget-energy", type=positive, metavar="NJ", help="with auto: nanojoules for one image"
    )
    add_gates(parser)
    parser.add_argument(
        "--spike-cost",
        type=at_least_zero,
        default=0.0,
        metavar="PRICE",
        help="of one event per neuron, in the unit of the outputs' relative squared error; "
        "with auto, K and gates are chosen for the fewest events",
    )
    parser.add_argument(
        "--pareto",
        type=at_least_zero,
        nargs="+",
        metavar="PRICE",
        help="also fit the network with these prices of spikes; events against error in a table, "
        "pareto.json and pareto.png",
    )
    parser.add_argument("--method", choices=METHODS, default=DEFAULT_METHOD)
    parser.add_argument("--effort", choices=EFFORTS, default="normal")
    parser.add_argument(
        "--encode",
        nargs="?",
        const=True,
        default=False,
        choices=["all"],
        help="neurons on analog operands of multiplications; 'all': on the image too",
    )
    parser.add_argument(
        "--plain", action="store_true", help="leave the layers' mean errors in their biases"
    )
    parser.add_argument(
        "--normalisation",
        action="store_true",
        help="layer, group, instance and RMS norms as neurons for their squares and inverse roots",
    )
    parser.add_argument(
        "--max-pool",
        nargs="?",
        const=True,
        default=False,
        choices=["first"],
        help="max pooling and row maxima as tournaments of ReLUs; 'first': poolings come before "
        "the monotone activation that precedes them, and remain",
    )
    parser.add_argument(
        "--modules",
        nargs="+",
        metavar="NAME",
        help="convert these parts of the model only, by name or glob; the rest runs as it is",
    )
    parser.add_argument(
        "--dynamic",
        type=axis_name,
        nargs="+",
        metavar="INPUT:AXIS=NAME",
        help="an input's axis that may have any length, as in input_ids:1=length",
    )


def settings(options: argparse.Namespace) -> convert.ConversionSettings:
    """What conversion is asked for."""
    import convert

    asked: dict[str, Any] = {
        "steps": options.steps if options.steps != ["auto"] else "auto",
        "max_loss": options.max_loss,
        "budget": options.budget,
        "budget_spikes": options.budget_spikes,
        "budget_operations": options.budget_operations,
        "budget_energy": options.budget_energy,
        "spike_cost": options.spike_cost,
        "seed": options.seed,
        "method": options.method,
        "gates": options.gates,
        "effort": options.effort,
        "sequential": not options.plain,
        "encode": options.encode,
        "normalisation": options.normalisation,
        "max_pool": options.max_pool,
    }
    if options.modules:
        asked["modules"] = options.modules
    if options.dynamic:
        axes: dict[str, dict[int, str]] = {}
        for name, axis, called in options.dynamic:
            axes.setdefault(name, {})[axis] = called
        asked["dynamic"] = axes
    return convert.ConversionSettings(**asked)


def prepared(options: argparse.Namespace) -> models.Preprocessing | models.TextPreprocessing:
    """What the model expects, with the options in place of its own."""
    import models

    return models.prepared(
        options.model,
        size=options.size,
        mean=options.mean and tuple(options.mean),
        std=options.std and tuple(options.std),
        classes=options.classes,
        resize=options.resize,
        interpolation=options.interpolation,
        tokenizer=options.tokenizer,
        length=options.length,
    )


def written(options: argparse.Namespace) -> list[str]:
    """Names of the files that `run` writes."""
    import models

    names = ["report.json", "steps.png", f"{models.short_name(options.model)}.fsnn"]
    return [*names, *(["pareto.json", "pareto.png"] if options.pareto else []), "report.html"]


def kept(options: argparse.Namespace) -> str:
    """What a run that was stopped leaves, for the line that says so."""
    found: list[str] = []
    if getattr(options, "saved", None):
        found.append(f"the network is in {options.saved}")
    if processes() > 1:
        return "; ".join(found)
    if options.resume is None:
        found.append("no stage is kept without --resume DIR")
    elif "convert" in sys.modules:
        from convert.common.kept_stages import kept_in

        names = kept_in(options.resume)
        told = ", ".join(names) or "nothing yet"
        found.append(f"kept in {options.resume}: {told}; the same command goes on from there")
    return "; ".join(found)


def run(options: argparse.Namespace, *, evenly: bool) -> None:
    """Converts, evaluates, prints and writes the report, with all processes of torchrun.

    Args:
        options: those that `add_options` adds.
        evenly: draws the calibration images equally from every class.
    """
    import convert
    from convert.common.torchrun import process_group

    with process_group(options.device) as options.device:
        if options.resume is None:
            _run(options, evenly, None)
            return
        with convert.KeptStages(options.resume) as stages:
            _run(options, evenly, stages)


def _run(options: argparse.Namespace, evenly: bool, stages: convert.KeptStages | None) -> None:
    import convert
    import models
    from convert.storage.room import room_for
    from models.devices import device_named
    from models.sources import (
        check_classes,
        check_metric,
        check_sources,
        drawn,
        left_out,
        open_sources,
    )

    asked, bars = settings(options), not options.quiet
    device = device_named(options.device)
    preprocessing = prepared(options)
    metric = check_metric(options.metric, preprocessing)
    check_sources(options.data, options.calibration, preprocessing, options.labels)
    model = models.get(
        options.model, options.weights, options.activation, options.classes, seed=options.seed
    )
    room = room_for(model)
    if first_process():
        check_room(options.output, sum(room))
    if stages is not None:
        stages.check_room(sum(room))
    by_classes = metric in (None, "accuracy")
    sources = open_sources(
        options.data,
        options.calibration,
        preprocessing,
        calibration_size=options.calibration_size,
        limit=options.limit,
        seed=options.seed,
        batch_size=options.batch_size,
        workers=options.workers,
        evenly=evenly,
        labelled=by_classes,
        labels=options.labels,
        root=options.root,
        varying=bool(options.dynamic),
        corrupt=models.OnCorrupt(options.corrupt == "skip", options.corrupt_limit),
        progress=bars,
    )
    if by_classes:
        check_classes(model, sources, preprocessing.classes)
    if options.weights == "random":
        print("warning: random weights: no figure says what a trained network does",
              file=sys.stderr)  # fmt: skip
    for note in sources.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"seed {options.seed}, {preprocessing}")
    draws = drawn(sources.calibration, sources.test)
    print("".join(f"{line}\n" for line in draws), end="", flush=True)
    snn = convert.to_spiking(
        model.to(device), sources.calibration, **asked.to_dict(), resume=stages, progress=bars
    )
    files = [options.output / name for name in written(options)]
    if first_process():
        # An evaluation may take longer than all before it.
        snn.save(
            files[2],
            metadata={
                "model": options.model,
                "activation": options.activation,
                "preprocessing": preprocessing.to_dict(),
                **({"classes": list(sources.classes)} if sources.classes else {}),
            },
        )
        options.saved = files[2]
    print(f"\n{snn.report}\n", flush=True)
    if options.audit and first_process():
        print(f"{convert.audit(snn, sources.calibration.first(2))}\n", flush=True)
    result = convert.evaluate(
        snn,
        model,
        sources.test,
        by_site=options.by_site,
        metric=metric,
        resume=stages,
        progress=bars,
    )
    print(result)
    skipped = told_left_out(options, left_out(calibration=sources.calibration, test=sources.test))
    names = ("torch", "torchvision", "spikingjelly", "numpy")
    library = options.model.partition(":")[0]
    if first_process():
        result.to_json(
            files[0],
            model=options.model,
            preprocessing=preprocessing.to_dict(),
            **({"drawn": draws} if draws else {}),
            **skipped,
            versions={"python": platform.python_version()}
            | {name: version(name) for name in (*names, *_LIBRARIES.get(library, ()))},
        )
        result.plot(files[1])
    if options.pareto:
        trade_off = convert.pareto(
            snn,
            sources.test,
            calibration=sources.calibration,
            spike_costs=options.pareto,
            steps=None if options.steps == ["auto"] else options.steps,
            metric=metric,
            progress=bars,
        )
        print(f"\n{trade_off}")
        if first_process():
            trade_off.to_json(files[3])
            trade_off.plot(files[4])
    if not first_process():
        return
    convert.write_report(
        files[-1], snn, result, images=sources.test.first(8), name=options.model,
        details={"command": shlex.join(sys.argv), "preprocessing": str(preprocessing)},
    )  # fmt: skip
    print(f"\nwritten: {', '.join(map(str, files))}")
