"""Trains a small language model on a text; stop it at any moment and run it again to go on."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import fields
from pathlib import Path

from arguments import Parser, add_common
from command import run_command

import models
from fewspikes.commands.endings import leave
from fewspikes.commands.kinds import at_least_zero, below_one, place, positive, whole
from models.devices import device_named
from models.text_training import TextRecipe, loss_of, read_bytes, train_text


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    own = TextRecipe()
    result.add_argument("--data", required=True, type=Path, help="a text file")
    result.add_argument("--output", required=True, type=place, help="folder for weights and log")
    result.add_argument(
        "--held-out", type=below_one, default=0.1, help="share of the text's end that is held out"
    )
    result.add_argument("--epochs", type=whole, default=own.epochs)
    result.add_argument("--steps", type=whole, default=own.steps, help="of an epoch")
    result.add_argument("--batch-size", type=whole, default=own.batch_size)
    result.add_argument("--length", type=whole, default=own.length, help="bytes of a piece")
    result.add_argument("--learning-rate", type=positive, default=own.learning_rate)
    result.add_argument("--weight-decay", type=at_least_zero, default=own.weight_decay)
    result.add_argument("--warmup", type=at_least_zero, default=own.warmup, help="epochs")
    result.add_argument("--device", default="cpu")
    add_common(result, seed=own.seed)
    return result


def run(options: argparse.Namespace) -> None:
    """Trains, and prints the perplexity on the held-out text."""
    begin = time.perf_counter()
    device = device_named(options.device)
    text, held_out = read_bytes(options.data, options.held_out)
    recipe = TextRecipe(**{f.name: getattr(options, f.name) for f in fields(TextRecipe)})
    model = models.get("byte_llama", "random", seed=recipe.seed)
    print(f"byte_llama: {len(text):,} bytes, seed {recipe.seed}", flush=True)
    rows = train_text(
        model,
        text,
        held_out,
        recipe,
        options.output,
        device=device,
        progress=not options.quiet,
    )
    print(", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()))
    print(f"seconds of training: {sum(row['seconds'] for row in rows):.0f}")
    model.to("cpu")
    for name, part in (("training", text[: len(held_out)]), ("held-out", held_out)):
        loss = loss_of(model, part, recipe.length)
        print(f"{name} text: {loss:.4f} nats a byte, perplexity {math.exp(loss):.3f}")
    print(f"{options.output / 'weights.pt'} after {time.perf_counter() - begin:.0f} s")


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(parser(), run, writes=lambda _: ["last.pt", "log.csv", "weights.pt"])


if __name__ == "__main__":
    leave(main())
