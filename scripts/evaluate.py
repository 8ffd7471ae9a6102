"""Evaluates a saved few-spikes network on labelled images, against its original or a checkpoint.

Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

import convert
import models
from models.data import Loader
from models.devices import device_named

WRONG_USE, BAD_NETWORK, BAD_DATA, BELOW = 2, 3, 4, 5
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
    result = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("file", metavar="FILE", help="a network that snn.save(FILE) wrote")
    result.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="cifar10, cifar100, digits, a folder of class folders, or an .npz with x and y",
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
    result.add_argument("--model", metavar="NAME", help="of CHECKPOINT; what FILE says if left out")
    result.add_argument("--limit", type=whole, metavar="N", help="N images only")
    result.add_argument("--batch-size", type=whole, default=250, metavar="N")
    result.add_argument("--by-site", type=count, default=0, metavar="N", help="images; 0 for none")
    result.add_argument("--device", default="cpu")
    result.add_argument("--size", type=whole, help="these four override what FILE says")
    result.add_argument("--mean", type=float, nargs="+")
    result.add_argument("--std", type=float, nargs="+")
    result.add_argument("--classes", type=whole)
    result.add_argument(
        "--min-accuracy", type=float, metavar="X", help="a fraction; see exit codes"
    )
    result.add_argument("--min-agreement", type=float, metavar="X")
    result.add_argument("--json", metavar="FILE", help="writes the report; '-' for stdout alone")
    result.add_argument("--quiet", action="store_true", help="no progress")
    result.add_argument("--traceback", action="store_true", help="show it on an error")
    return result


def whole(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, found {text!r}")
    return value


def count(text: str) -> int:
    """A whole number of at least 0."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 0, found {text!r}")
    return value


class Refusal(Exception):
    """An error of use with the exit code that says whose."""

    def __init__(self, code: int, error: object) -> None:
        super().__init__(str(error))
        self.code = code


def preprocessing(snn: convert.SpikingModel, options: argparse.Namespace) -> models.Preprocessing:
    """What the file says of its images, with the options in place of it."""
    given = {
        "size": options.size,
        "mean": options.mean,
        "std": options.std,
        "classes": options.classes,
    }
    stored = snn.metadata.get("preprocessing") or {}
    merged = {**stored, **{key: value for key, value in given.items() if value is not None}}
    missing = [f"--{key}" for key in given if key not in merged]
    if missing:
        raise Refusal(
            WRONG_USE,
            f"{options.file} doesn't say how its images are prepared; give {' '.join(missing)}",
        )
    return models.Preprocessing.from_dict(merged)


def checkpoint(
    snn: convert.SpikingModel, options: argparse.Namespace, classes: int
) -> nn.Module | None:
    """The model to compare with, None for the exact functions in the file."""
    if options.against == "original":
        return None
    name = options.model or snn.metadata.get("model")
    if not isinstance(name, str):
        raise Refusal(WRONG_USE, f"{options.file} names no model; give --model for the checkpoint")
    activation = None if options.model else snn.metadata.get("activation")
    return models.get(name, options.against, activation, classes).to(options.device)


def run(options: argparse.Namespace) -> int:
    """Loads, evaluates and prints; returns the exit code."""
    try:
        device = device_named(options.device)
    except models.ModelError as error:
        raise Refusal(WRONG_USE, f"--device: {error}") from error
    try:
        snn = convert.load(options.file, device=device)
    except convert.StorageError as error:
        raise Refusal(BAD_NETWORK, error) from error
    if options.step is not None and options.step > snn.longest:
        raise Refusal(WRONG_USE, f"--step {options.step}: the network has steps 1 to {snn.longest}")
    try:
        prepared = preprocessing(snn, options)
        model = checkpoint(snn, options, prepared.classes)
        test = models.load_images(options.data, root=options.root, progress=not options.quiet)
        test = test.limited(options.limit)
        test.check_labels(prepared.classes)
        result = convert.evaluate(
            snn,
            model,
            Loader(test, prepared, options.batch_size),
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
    if options.json == "-":
        print(json.dumps(result.to_dict(**facts), indent=1, allow_nan=False))
    else:
        print(f"{options.file} on {options.data}, {prepared}, against {options.against}\n")
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
        if limit is not None and measured[key] < limit:
            print(f"{key} {measured[key]:.4f} is below {limit:g}", file=sys.stderr)
            missed = True
    return missed


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    options = parser().parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    try:
        return run(options)
    except (Refusal, convert.ConversionError) as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.code if isinstance(error, Refusal) else WRONG_USE


if __name__ == "__main__":
    sys.exit(main())
