"""Training of a language model on the bytes of a text: resumable, seeded, with a log."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoints import read_checkpoint, write_checkpoint
from .errors import DataError, ModelError
from .progress import bar
from .training import cosine_rate, write_log


@dataclass(frozen=True)
class TextRecipe:
    """How a language model is trained.

    Args:
        epochs: how often a checkpoint is written; each is `steps` steps.
        steps: of an epoch.
        batch_size: pieces of text a step.
        length: bytes of a piece.
        learning_rate: of AdamW at its peak.
        weight_decay: on matrices; vectors (norms) have none.
        warmup: epochs in which the rate rises linearly; then it falls along a cosine to 0.
        seed: of the weights and of the pieces that are drawn.
    """

    epochs: int = 40
    steps: int = 100
    batch_size: int = 8
    length: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.steps, self.batch_size) < 1 or self.length < 2:
            raise ModelError(
                "a recipe needs at least one epoch, one step, one piece a batch and two bytes a "
                "piece"
            )


def read_bytes(path: Path, held_out: float = 0.1) -> tuple[Tensor, Tensor]:
    """The bytes of a text ``[T]``, int64, and those of its last part, which are held out.

    Args:
        path: of the text.
        held_out: share of the last part.

    Raises:
        DataError: for a file that can't be read or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    if not content:
        raise DataError(f"{path} is empty; give a text")
    whole = torch.from_numpy(np.frombuffer(content, np.uint8).astype(np.int64))
    kept = int(len(whole) * (1 - held_out))
    return whole[:kept], whole[kept:]


def pieces(text: Tensor, length: int) -> Tensor:
    """A text cut into pieces ``[N, length]``; what is left at its end is left out."""
    return text[: len(text) // length * length].view(-1, length)


def train_text(
    model: nn.Module,
    text: Tensor,
    held_out: Tensor,
    recipe: TextRecipe,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> list[dict[str, float]]:
    """Trains `model` in place, writing a checkpoint after every epoch and resuming from it.

    Every epoch draws its randomness from the seed and its own number, so that a training that
    was stopped and resumed ends with the weights of an undisturbed one.

    Args:
        model: freshly initialised, from bytes ``[N, T]`` to logits ``[N, T, 256]``; its weights are
            overwritten if `folder` holds a checkpoint.
        text: bytes ``[T]`` to train on.
        held_out: bytes that are only watched; none for no column of theirs.
        recipe: how to train.
        folder: gets ``last.pt`` (to resume), ``log.csv`` and in the end ``weights.pt``.
        device: where to train.
        progress: shows a bar on stderr.

    Returns:
        One row an epoch, as in ``log.csv``; losses in nats a byte.

    Raises:
        ModelError: if `folder` holds the checkpoint of another recipe.
        DataError: if the text is shorter than a piece.
    """
    if len(text) <= recipe.length:
        raise DataError(
            f"the text has {len(text)} bytes, fewer than a piece of {recipe.length} and the byte "
            "behind it; give a longer text or a shorter length"
        )
    model.to(device)
    optimizer = torch.optim.AdamW(
        _groups(model, recipe), lr=recipe.learning_rate, betas=(0.9, 0.99)
    )
    rows: list[dict[str, float]] = []
    last = folder / "last.pt"
    if last.is_file():
        content = read_checkpoint(last)
        if not isinstance(content, dict) or content.get("recipe") != asdict(recipe):
            raise ModelError(
                f"{last} was written by a training with another recipe; give the same options to "
                "resume it, or another folder to start anew"
            )
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        rows = list(content["rows"])
    first = len(rows)
    shown = bar(None, "train", shown=progress, total=recipe.epochs, initial=first)
    for epoch in range(first, recipe.epochs):
        begin = time.perf_counter()
        loss, rate = _epoch(model, optimizer, text.to(device), recipe, epoch)
        watched = loss_of(model, held_out.to(device), recipe.length)
        values = (epoch + 1, rate, loss, watched, time.perf_counter() - begin)
        names = ("epoch", "learning_rate", "loss", "held_out_loss", "seconds")
        rows.append(dict(zip(names, map(float, values), strict=True)))
        content = {
            "recipe": asdict(recipe),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rows": rows,
        }
        write_checkpoint(content, last)
        write_log(rows, folder / "log.csv")
        shown.set_postfix(loss=f"{loss:.3f}", held_out=f"{watched:.3f}", refresh=False)
        shown.update()
    shown.close()
    write_checkpoint(
        {k: v.detach().cpu() for k, v in model.state_dict().items()}, folder / "weights.pt"
    )
    model.eval()
    return rows


def _groups(model: nn.Module, recipe: TextRecipe) -> list[dict[str, object]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    text: Tensor,
    recipe: TextRecipe,
    epoch: int,
) -> tuple[float, float]:
    """Mean loss and the last learning rate."""
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)
    total, rate = 0.0, 0.0
    within = torch.arange(recipe.length + 1, device=text.device)
    model.train()
    for step in range(recipe.steps):
        done = epoch + step / recipe.steps
        rate = cosine_rate(recipe.learning_rate, done, recipe.warmup, recipe.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(text) - recipe.length, (recipe.batch_size, 1)).to(text.device)
        batch = text[starts + within]
        loss = _loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += float(loss.detach())
    return total / recipe.steps, rate


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean loss of the bytes behind the first, in nats."""
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())


def loss_of(model: nn.Module, text: Tensor, length: int, *, batch_size: int = 32) -> float:
    """Mean loss on a text that is cut into pieces, in nats a byte; NaN without a whole piece."""
    cut = pieces(text, length + 1)
    training = model.training
    model.eval()
    with torch.no_grad():
        losses = [float(_loss(model, part)) * len(part) for part in cut.split(batch_size)]
    model.train(training)
    return sum(losses) / len(cut) if len(cut) else float("nan")
