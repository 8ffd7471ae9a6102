"""Trains a small SiLU ResNet on handwritten digits, converts it, and measures it step by step.

No download and no GPU: the digits come with scikit-learn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import convert
import models
from models.data import Loader
from models.training import Recipe, train


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--steps", type=whole, nargs="+", default=[8, 4, 6], metavar="K")
    result.add_argument("--method", choices=sorted(convert.METHODS), default=convert.DEFAULT_METHOD)
    result.add_argument("--epochs", type=whole, default=20)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--output", type=Path, default=Path("quickstart"), metavar="DIR")
    result.add_argument("--quiet", action="store_true")
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


def run(options: argparse.Namespace) -> None:
    """Trains, converts, evaluates, and writes report.json and steps.png."""
    begin = time.perf_counter()
    name, bars = "resnet8_digits", not options.quiet
    preprocessing = models.preprocessing(name)
    digits, test = models.load_images("digits", train=True), models.load_images("digits")
    model = models.get(name, "random", seed=options.seed)
    recipe = Recipe(epochs=options.epochs, batch_size=64, augmentation="none", seed=options.seed)
    print(f"seed {options.seed}: training {name} on {len(digits)} digits", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        train(model, digits, preprocessing, recipe, Path(folder), progress=bars)
    print(f"trained after {time.perf_counter() - begin:.0f} s", flush=True)
    snn = convert.to_spiking(
        model,
        Loader(digits, preprocessing),
        steps=options.steps,
        method=options.method,
        seed=options.seed,
        progress=bars,
    )
    print(f"\n{snn.report}\n")
    result = convert.evaluate(snn, model, Loader(test, preprocessing), progress=bars)
    print(result)
    result.to_json(
        options.output / "report.json", model=name, preprocessing=preprocessing.to_dict()
    )
    result.plot(options.output / "steps.png")
    print(f"\nwritten: {options.output / 'report.json'}, {options.output / 'steps.png'}")
    print(f"{time.perf_counter() - begin:.0f} s in all")


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    options = parser().parse_args()
    try:
        run(options)
    except (convert.ConversionError, models.ModelError, models.DataError) as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
