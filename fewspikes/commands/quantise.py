"""Turns a saved few-spikes network into whole numbers for hardware, and measures what that costs.

Writes network.json, network.npz, reference.c and loss.json; docs/hardware.md explains them.
"""

from __future__ import annotations

import argparse
import json

from .endings import WRONG_USE, Refusal, run_command
from .kinds import Parser, add_common, finite, place, positive, whole

BAD_NETWORK, BAD_DATA = 3, 4
FILES = ["network.json", "network.npz", "reference.c", "loss.json"]
EXIT_CODES = f"""\
exit codes:
  0  written
  1  an unexpected error, with a traceback
  {WRONG_USE}  wrong use: an option, or a K that the network doesn't have
  {BAD_NETWORK}  FILE can't be loaded: missing, damaged, or written by a newer version
  {BAD_DATA}  the images, or the network with them, can't be used
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("file", metavar="FILE", help="a network that snn.save(FILE) wrote")
    result.add_argument("--data", required=True, metavar="SOURCE", help="for the test")
    result.add_argument("--calibration", required=True, metavar="SOURCE", help="to quantise with")
    result.add_argument("--calibration-size", type=whole, default=512, metavar="N")
    result.add_argument("--steps", type=whole, metavar="K", help="another K that FILE holds")
    result.add_argument("--weight-bits", type=whole, default=8, metavar="N")
    result.add_argument("--state-bits", type=whole, default=16, metavar="N")
    result.add_argument(
        "--weights",
        choices=("power-of-two", "integer"),
        default="power-of-two",
        help="output weights of spikes",
    )
    result.add_argument("--limit", type=whole, metavar="N", help="test on N images only")
    result.add_argument("--batch-size", type=whole, default=250, metavar="N")
    result.add_argument("--labels", default="folder", metavar="folder|name|FILE")
    result.add_argument("--root", default="data", help="where torchvision keeps downloads")
    result.add_argument("--size", type=whole, help="these four override what FILE says")
    result.add_argument("--mean", type=finite, nargs="+")
    result.add_argument("--std", type=positive, nargs="+")
    result.add_argument("--classes", type=whole)
    add_common(result)
    result.add_argument("--output", required=True, type=place, metavar="DIR")
    return result


def run(options: argparse.Namespace) -> None:
    """Loads, quantises, measures, prints and writes."""
    import convert
    import models
    from convert.hardware.loss import measure
    from convert.hardware.quantise import quantise
    from models.sources import open_sources

    from .evaluate import preprocessing

    try:
        snn = convert.load(options.file)
    except convert.ConversionError as error:
        raise Refusal(BAD_NETWORK, error) from error
    bars = not options.quiet
    steps = options.steps or snn.steps
    try:
        with snn.with_steps(steps):
            pass
    except convert.ConversionError as error:
        raise Refusal(WRONG_USE, f"--steps: {error}") from error
    prepared = preprocessing(snn, options)
    try:
        sources = open_sources(
            options.data,
            options.calibration,
            prepared,
            calibration_size=options.calibration_size,
            limit=options.limit,
            seed=options.seed,
            batch_size=options.batch_size,
            evenly=False,
            labels=options.labels,
            root=options.root,
        )
        with snn.with_steps(steps):
            quantised = quantise(
                snn,
                sources.calibration,
                weight_bits=options.weight_bits,
                state_bits=options.state_bits,
                weights=options.weights,
                progress=bars,
            )
        print(f"{quantised}\n", flush=True)
        loss = measure(quantised, sources.test, progress=bars)
    except (convert.ConversionError, models.ModelError, models.DataError) as error:
        raise Refusal(BAD_DATA, error) from error
    print(loss)
    paths = quantised.save(options.output)
    path = options.output / FILES[-1]
    path.write_text(json.dumps(loss.to_dict(), indent=1, allow_nan=False) + "\n")
    print(f"\nwritten: {', '.join([*paths, str(path)])}")


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(parser(), run, writes=lambda options: FILES)
