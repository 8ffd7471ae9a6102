"""Trains a small SiLU ResNet on handwritten digits, converts it, and measures it step by step.

No download and no GPU: the digits come with scikit-learn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from arguments import Parser, add_common, add_gates
from command import run_command

import convert
import models
from fewspikes.commands.endings import leave
from fewspikes.commands.kinds import place, steps, whole
from models.data import Loader
from models.training import Recipe, train


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    result.add_argument("--steps", type=steps, nargs="+", default=[8, 4, 6], metavar="K")
    add_gates(result)
    result.add_argument("--method", choices=sorted(convert.METHODS), default=convert.DEFAULT_METHOD)
    result.add_argument("--epochs", type=whole, default=20)
    result.add_argument("--output", type=place, default=Path("quickstart"), metavar="DIR")
    add_common(result)
    return result


def run(options: argparse.Namespace) -> None:
    """Trains, converts, evaluates, and writes report.json and steps.png."""
    begin = time.perf_counter()
    name, bars = "resnet8_digits", not options.quiet
    convert.ConversionSettings(steps=options.steps, method=options.method, seed=options.seed)
    preprocessing = models.preprocessing(name)
    digits, test = models.load_images("digits", train=True), models.load_images("digits")
    model = models.get(name, "random", seed=options.seed)
    recipe = Recipe(epochs=options.epochs, batch_size=64, augmentation="none", seed=options.seed)
    print(f"seed {options.seed}: training {name} on {len(digits)} digits", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        train(model, digits, preprocessing, recipe, Path(folder), progress=bars)
    if bars:
        print(f"trained after {time.perf_counter() - begin:.0f} s", flush=True)
    snn = convert.to_spiking(
        model,
        Loader(digits, preprocessing),
        steps=options.steps,
        method=options.method,
        gates=options.gates,
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
    return run_command(parser(), run, writes=lambda _: ["report.json", "steps.png"])


if __name__ == "__main__":
    leave(main())
