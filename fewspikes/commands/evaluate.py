"""Evaluates a saved few-spikes network on labelled images, against its original or a checkpoint.

Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

import convert
import models
from convert.parts.model import SpikingParts
from models.devices import device_named
from models.sources import check_metric, drawn, left_out, open_test, preprocessing_from

from .endings import WRONG_USE, Refusal, run_command, told_left_out
from .kinds import Parser, add_common, add_reading, count, finite, fraction, positive, whole

BAD_NETWORK, BAD_DATA, BELOW = 3, 4, 5
EXIT_CODES = f"""\
exit codes:
  0  evaluated, and no limit was missed
  1  an unexpected error, with a traceback
  {WRONG_USE}  wrong use: an option, or a step that the network doesn't have
  {BAD_NETWORK}  FILE can't be loaded: missing, damaged, or written by a newer version
  {BAD_DATA}  the images or the checkpoint can't be used
  {BELOW}  evaluated, and below --min-accuracy or --min-agreement
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("file", metavar="FILE", help="a network that snn.save(FILE) wrote")
    result.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="cifar10, cifar100, digits, a folder or tar of class folders, an .npz with x and y, "
        "or a text file",
    )
    result.add_argument(
        "--labels",
        default="folder",
        metavar="folder|name|FILE",
        help="what tells the class of an image, as in convert.py",
    )
    result.add_argument("--root", default="data", help="where torchvision keeps downloads")
    result.add_argument(
        "--step", type=whole, metavar="T", help="read out after step T too; every step if left out"
    )
    result.add_argument(
        "--against",
        default="original",
        metavar="original|CHECKPOINT",
        help="the exact functions in FILE, or weights of the model that it was converted from",
    )
    result.add_argument(
        "--model", metavar="NAME", help="of CHECKPOINT, or around parts; what FILE says if left out"
    )
    result.add_argument(
        "--limit",
        type=whole,
        metavar="N",
        help="N images only, drawn by --seed equally from every class",
    )
    add_reading(result)
    result.add_argument("--batch-size", type=whole, default=250, metavar="N")
    result.add_argument(
        "--metric",
        choices=sorted(convert.METRICS),
        metavar="NAME",
        help=f"{', '.join(sorted(convert.METRICS))}; what suits the outputs if left out",
    )
    result.add_argument("--by-site", type=count, default=0, metavar="N", help="images; 0 for none")
    result.add_argument("--device", default="cpu")
    result.add_argument("--size", type=whole, help="these four override what FILE says")
    result.add_argument("--mean", type=finite, nargs="+")
    result.add_argument("--std", type=positive, nargs="+")
    result.add_argument("--classes", type=whole)
    result.add_argument(
        "--min-accuracy", type=fraction, metavar="X", help="a fraction; see exit codes"
    )
    result.add_argument("--min-agreement", type=fraction, metavar="X")
    result.add_argument("--json", metavar="FILE", help="writes the report; '-' for stdout alone")
    add_common(result)
    return result


def preprocessing(
    snn: convert.SpikingModel, options: argparse.Namespace
) -> models.Preprocessing | models.TextPreprocessing:
    """What the file says of its images or texts, with the options in place of it."""
    given = {
        "size": options.size,
        "mean": options.mean and tuple(options.mean),
        "std": options.std and tuple(options.std),
        "classes": options.classes,
    }
    stored = snn.metadata.get("preprocessing")
    stored = stored if isinstance(stored, dict) else {}
    if "tokenizer" in stored and not any(given.values()):
        return preprocessing_from(stored)
    if set(given) <= set(stored):
        return models.with_options(models.Preprocessing.from_dict(stored), **given)
    merged = {**stored, **{key: value for key, value in given.items() if value is not None}}
    missing = [f"--{key}" for key in given if key not in merged]
    if missing:
        raise Refusal(
            WRONG_USE,
            f"{options.file} doesn't say how its images are prepared; give {' '.join(missing)}",
        )
    return models.Preprocessing.from_dict(merged)


def checkpoint(
    snn: convert.SpikingModel, options: argparse.Namespace, classes: int | None
) -> nn.Module | None:
    """The model to compare with, None for the exact functions in the file.

    A file of converted parts needs the model around them: with the weights of --against, or those
    that it has by itself.
    """
    own = options.against == "original"
    if own and not isinstance(snn, SpikingParts):
        return None
    name = options.model or snn.metadata.get("model")
    if not isinstance(name, str):
        raise Refusal(WRONG_USE, f"{options.file} names no model; give --model for the checkpoint")
    if (
        options.model is None
        and name.partition(":")[0] not in ("timm", "torchvision")
        and ":" in name
    ):
        raise Refusal(
            WRONG_USE,
            f"{options.file} says that its model is {name[:60]!r}, which may run code or read "
            "files; give --model yourself",
        )
    activation = None if options.model else snn.metadata.get("activation")
    if activation is not None and not isinstance(activation, str):
        raise Refusal(WRONG_USE, f"{options.file} names no activation; give --model")
    weights = None if own else options.against
    return models.get(name, weights, activation, classes).to(options.device)


def run(options: argparse.Namespace) -> int:
    """Loads, evaluates and prints; returns the exit code."""
    try:
        device = device_named(options.device)
    except models.ModelError as error:
        raise Refusal(WRONG_USE, f"--device: {error}") from error
    try:
        snn = convert.load(options.file, device=device)
    except convert.ConversionError as error:
        raise Refusal(BAD_NETWORK, error) from error
    if options.step is not None and options.step > snn.longest:
        raise Refusal(WRONG_USE, f"--step {options.step}: the network has steps 1 to {snn.longest}")
    for key in ("accuracy", "agreement"):
        limited = options.metric and getattr(options, f"min_{key}") is not None
        if limited and key not in convert.METRICS[options.metric]().shown().columns:
            raise Refusal(WRONG_USE, f"--min-{key}: --metric {options.metric} measures no {key}")
    try:
        prepared = preprocessing(snn, options)
        metric = options.metric or check_metric(None, prepared)
        images = isinstance(prepared, models.Preprocessing)
        model = checkpoint(snn, options, prepared.classes if images else None)
        if isinstance(snn, SpikingParts) and model is not None:
            snn = snn.into(model)
        test = open_test(
            options.data,
            prepared,
            limit=options.limit,
            seed=options.seed,
            batch_size=options.batch_size,
            labelled=metric in (None, "accuracy", "agreement", "classes"),
            labels=options.labels,
            workers=options.workers,
            root=options.root,
            corrupt=models.OnCorrupt(options.corrupt == "skip", options.corrupt_limit),
            progress=not options.quiet,
        )
        result = convert.evaluate(
            snn,
            model,
            test,
            metric=metric,
            by_site=options.by_site,
            at=None if options.step is None else [options.step],
            progress=not options.quiet,
        )
    except (convert.ConversionError, models.ModelError, models.DataError) as error:
        raise Refusal(BAD_DATA, error) from error
    facts: dict[str, Any] = {
        "file": options.file,
        "against": options.against,
        "preprocessing": prepared.to_dict(),
    }
    draws = drawn(test)
    facts |= ({"drawn": draws} if draws else {}) | told_left_out(options, left_out(test=test))
    if options.json == "-":
        print(json.dumps(result.to_dict(**facts), indent=1, allow_nan=False))
    else:
        print(f"{options.file} on {options.data}, {prepared}, against {options.against}")
        print(*draws, "", sep="\n")
        print(result)
        if options.json:
            result.to_json(options.json, **facts)
    measured: Mapping[str, Any] = result.spiking
    if options.step is not None:
        measured = next(row for row in result.by_step if row.step == options.step)
    return BELOW if _below(options, measured) else 0


def _below(options: argparse.Namespace, measured: Mapping[str, Any]) -> bool:
    """Whether a limit is missed; says which on stderr."""
    missed = False
    for key, limit in (("accuracy", options.min_accuracy), ("agreement", options.min_agreement)):
        # NaN is below every limit, and so is what could not be measured.
        found = math.nan if measured.get(key) is None else measured[key]
        if limit is not None and not found >= limit:
            print(f"{key} {found:.4f} is below {limit:g}", file=sys.stderr)
            missed = True
    return missed


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(parser(), run, files=["json"])
