"""Trains a CIFAR model from scratch; stop it at any moment and run it again to go on."""

from __future__ import annotations

import argparse
import time
from dataclasses import fields

from arguments import Parser, add_common
from command import run_command

import models
from fewspikes.commands.endings import leave
from fewspikes.commands.kinds import at_least_zero, below_one, count, place, positive, whole
from models.devices import device_named
from models.training import AUGMENTATIONS, Recipe, accuracy_of, train


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    own = Recipe()
    result.add_argument("--model", required=True, help="a CIFAR model, e.g. resnet20_silu")
    result.add_argument("--data", required=True, help="cifar10, cifar100, a folder, or an .npz")
    result.add_argument("--test", help="a source to measure once, when training has ended")
    result.add_argument("--output", required=True, type=place, help="folder for weights and log")
    result.add_argument("--root", default="data", help="where torchvision keeps downloads")
    result.add_argument("--cache", type=place, help="folder for decoded images of a folder source")
    result.add_argument("--activation", choices=sorted(models.ACTIVATIONS))
    result.add_argument("--epochs", type=whole, default=own.epochs)
    result.add_argument("--batch-size", type=whole, default=own.batch_size)
    result.add_argument("--optimizer", choices=("sgd", "adamw"), default=own.optimizer)
    result.add_argument("--learning-rate", type=positive, default=own.learning_rate)
    result.add_argument("--weight-decay", type=at_least_zero, default=own.weight_decay)
    result.add_argument("--warmup", type=at_least_zero, default=own.warmup, help="epochs")
    result.add_argument("--label-smoothing", type=below_one, default=own.label_smoothing)
    result.add_argument("--augmentation", choices=AUGMENTATIONS, default=own.augmentation)
    result.add_argument("--mixed-precision", action="store_true", help="bfloat16 autocast")
    result.add_argument("--compiled", action="store_true", help="use torch.compile")
    result.add_argument("--held-out", type=count, default=own.held_out, help="images to watch")
    result.add_argument("--limit", type=whole, help="train on N images only")
    result.add_argument("--device", default="cpu")
    add_common(result, seed=own.seed)
    return result


def run(options: argparse.Namespace) -> None:
    """Trains and prints the log's last row and the accuracy on --test."""
    started = time.perf_counter()
    device = device_named(options.device)
    bars = not options.quiet
    for source in (options.data, options.test):
        models.check_source(source)
    images = models.load_images(
        options.data, train=True, root=options.root, cache=options.cache, progress=bars
    ).limited(options.limit)
    recipe = Recipe(**{f.name: getattr(options, f.name) for f in fields(Recipe)})
    print(f"{options.model}: {len(images)} images, seed {recipe.seed}", flush=True)
    preprocessing = models.preprocessing(options.model)
    model = models.get(options.model, "random", options.activation, seed=recipe.seed)
    rows = train(
        model,
        images,
        preprocessing,
        recipe,
        options.output,
        device=device,
        progress=bars,
    )
    print(", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()))
    print(f"seconds of training: {sum(row['seconds'] for row in rows):.0f}")
    if options.test:
        test = models.load_images(options.test, root=options.root)
        test.check_labels(preprocessing.classes)
        accuracy = accuracy_of(model, test, preprocessing, device=device)
        print(f"accuracy on {test.source}: {accuracy:.4f} ({len(test)} images)")
    print(f"{options.output / 'weights.pt'} after {time.perf_counter() - started:.0f} s")


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(parser(), run, writes=lambda _: ["last.pt", "log.csv", "weights.pt"])


if __name__ == "__main__":
    leave(main())
