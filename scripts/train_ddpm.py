"""Trains the denoising U-Net on handwritten digits; stop it at any moment, run it again to go on.

No download and no GPU: the digits come with scikit-learn.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields

from arguments import Parser, add_common
from command import run_command

import models
from fewspikes.commands.endings import leave
from fewspikes.commands.kinds import at_least_zero, below_one, place, positive, whole
from models.devices import device_named
from models.diffusion_training import DiffusionRecipe, loss_by_time, scaled, train_diffusion


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    own = DiffusionRecipe()
    result.add_argument("--output", required=True, type=place, help="folder for weights and log")
    result.add_argument("--epochs", type=whole, default=own.epochs)
    result.add_argument("--batch-size", type=whole, default=own.batch_size)
    result.add_argument("--learning-rate", type=positive, default=own.learning_rate)
    result.add_argument("--warmup", type=at_least_zero, default=own.warmup, help="epochs")
    result.add_argument(
        "--average", type=below_one, default=own.average, help="decay of the weights' running mean"
    )
    result.add_argument("--limit", type=whole, help="train on the first N digits only")
    result.add_argument("--device", default="cpu")
    add_common(result, seed=own.seed)
    return result


def run(options: argparse.Namespace) -> None:
    """Trains, and prints the loss on held-out digits."""
    begin = time.perf_counter()
    device = device_named(options.device)
    digits = models.load_images("digits", train=True).first(options.limit)
    recipe = DiffusionRecipe(**{f.name: getattr(options, f.name) for f in fields(DiffusionRecipe)})
    model, schedule = models.ddpm_digits("random", seed=recipe.seed)
    print(f"ddpm_digits: {len(digits)} digits, seed {recipe.seed}", flush=True)
    rows = train_diffusion(
        model,
        digits,
        schedule,
        recipe,
        options.output,
        device=device,
        progress=not options.quiet,
    )
    print(", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()))
    print(f"seconds of training: {sum(row['seconds'] for row in rows):.0f}")
    model.to("cpu")
    for name, train in (("training", True), ("held-out", False)):
        images = scaled(models.load_images("digits", train=train))
        parts = ", ".join(f"{v:.4f}" for v in loss_by_time(model, images, schedule))
        print(f"loss on {name} digits, by quarters of the time steps: {parts}")
    print(f"{options.output / 'weights.pt'} after {time.perf_counter() - begin:.0f} s")


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(parser(), run, writes=lambda _: ["last.pt", "log.csv", "weights.pt"])


if __name__ == "__main__":
    leave(main())
