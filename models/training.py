"""Training on images in memory: resumable, seeded, with a log that can be plotted."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from .checkpoints import read_checkpoint, write_checkpoint
from .data import Images, Loader
from .errors import DataError, ModelError
from .files import whole_file
from .preprocessing import Preprocessing
from .progress import bar

AUGMENTATIONS = ("none", "flip", "cutout", "randaugment")
_COLUMNS = ("epoch", "learning_rate", "loss", "train_accuracy", "held_out_accuracy", "seconds")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: passes over the images.
        batch_size: images a step; the incomplete last batch of an epoch is left out.
        optimizer: ``"sgd"`` (Nesterov momentum 0.9) or ``"adamw"``.
        learning_rate: at its peak.
        weight_decay: on matrices and filters; vectors (biases, norms) have none.
        warmup: epochs in which the rate rises linearly; then it falls along a cosine to 0.
        label_smoothing: share of the label spread over all classes.
        augmentation: ``"none"``, ``"flip"`` (random crop and flip), ``"cutout"`` (and one erased
            square) or ``"randaugment"`` (crop, flip, and two random operations).
        mixed_precision: bfloat16 autocast with float32 weights.
        compiled: runs the network through `torch.compile`.
        held_out: images kept out of training to watch it.
        seed: of the weights, the order and the augmentation.
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    warmup: float = 1.0
    label_smoothing: float = 0.0
    augmentation: str = "flip"
    mixed_precision: bool = False
    compiled: bool = False
    held_out: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ModelError("a recipe needs at least one epoch and one image a batch")
        if self.optimizer not in ("sgd", "adamw"):
            raise ModelError(f"no optimizer is called {self.optimizer!r}; choose sgd or adamw")
        if self.augmentation not in AUGMENTATIONS:
            raise ModelError(
                f"no augmentation is called {self.augmentation!r}; choose from "
                f"{', '.join(AUGMENTATIONS)}"
            )

    def rate(self, progress: float) -> float:
        """Learning rate after `progress` epochs (a fraction within one)."""
        return cosine_rate(self.learning_rate, progress, self.warmup, self.epochs)


def cosine_rate(peak: float, progress: float, warmup: float, end: float) -> float:
    """A learning rate that rises linearly for `warmup` epochs and falls along a cosine to 0."""
    if progress < warmup:
        return peak * (progress + 1e-3) / (warmup + 1e-3)
    done = (progress - warmup) / max(end - warmup, 1e-9)
    return peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def augment(kind: str, size: int) -> Callable[[Tensor], Tensor]:
    """Augmentation of one uint8 image ``[C, size, size]``, by torchvision's transforms."""
    steps: list[nn.Module] = []
    if kind != "none":
        steps += [v2.RandomCrop(size, padding=size // 8), v2.RandomHorizontalFlip()]
    if kind == "randaugment":
        steps.append(v2.RandAugment(num_ops=2, magnitude=7))
    if kind == "cutout":
        # DeVries & Taylor 2017 (arXiv 1708.04552): one square; here of an eighth of the area.
        steps.append(v2.RandomErasing(p=0.5, scale=(0.02, 0.2), value=128))
    return v2.Compose(steps) if steps else nn.Identity()


def train(
    model: nn.Module,
    images: Images,
    preprocessing: Preprocessing,
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> list[dict[str, float]]:
    """Trains `model` in place, writing a checkpoint after every epoch and resuming from it.

    Every epoch draws its randomness from the seed and its own number, so that a training that
    was stopped and resumed ends with the weights of an undisturbed one.

    Args:
        model: freshly initialised; its weights are overwritten if `folder` holds a checkpoint.
        images: what to train on.
        preprocessing: of the model.
        recipe: how to train.
        folder: gets ``last.pt`` (to resume), ``log.csv`` and in the end ``weights.pt``.
        device: where to train.
        progress: shows bars on stderr.

    Returns:
        One row an epoch, as in ``log.csv``.

    Raises:
        ModelError: if `folder` holds the checkpoint of another recipe.
        DataError: if there are too few images for one batch, or labels the model can't predict.
    """
    images.check_labels(preprocessing.classes)
    kept, watched = _split(images, recipe)
    if len(kept) < recipe.batch_size:
        raise DataError(
            f"{images.source}: {len(kept)} images are fewer than one batch of {recipe.batch_size}; "
            "lower the batch size"
        )
    model.to(device).train()
    optimizer = _optimizer(model, recipe)
    rows: list[dict[str, float]] = []
    last = folder / "last.pt"
    if last.is_file():
        rows = _resume(last, model, optimizer, recipe)
    run = torch.compile(model) if recipe.compiled else model
    for epoch in range(len(rows), recipe.epochs):
        started = time.perf_counter()
        loss, accuracy, rate = _epoch(
            run, optimizer, kept, preprocessing, recipe, epoch, device, progress
        )
        held = float("nan")
        if watched is not None:
            held = accuracy_of(model, watched, preprocessing, device=device)
        seconds = time.perf_counter() - started
        values = (epoch + 1, rate, loss, accuracy, held, seconds)
        rows.append(dict(zip(_COLUMNS, map(float, values), strict=True)))
        content = {
            "recipe": asdict(recipe),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rows": rows,
        }
        write_checkpoint(content, last)
        write_log(rows, folder / "log.csv")
    write_checkpoint(
        {k: v.detach().cpu() for k, v in model.state_dict().items()}, folder / "weights.pt"
    )
    model.eval()
    return rows


def _split(images: Images, recipe: Recipe) -> tuple[Images, Images | None]:
    if not recipe.held_out:
        return images, None
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed))
    held, rest = order[: recipe.held_out].numpy(), order[recipe.held_out :].numpy()
    return (
        Images(images.x[rest], images.y[rest], images.source),
        Images(images.x[held], images.y[held], images.source),
    )


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> list[dict[str, float]]:
    content = read_checkpoint(path)
    if not isinstance(content, dict) or content.get("recipe") != asdict(recipe):
        raise ModelError(
            f"{path} was written by a training with another recipe; give the same options to "
            "resume it, or another folder to start anew"
        )
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return list(content["rows"])


def _epoch(
    model: Any,
    optimizer: torch.optim.Optimizer,
    images: Images,
    preprocessing: Preprocessing,
    recipe: Recipe,
    epoch: int,
    device: torch.device | str,
    progress: bool,
) -> tuple[float, float, float]:
    """Mean loss, accuracy on the augmented images, and the last learning rate."""
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)
    pixels = torch.from_numpy(images.x).permute(0, 3, 1, 2)
    labels = torch.from_numpy(images.y)
    change = augment(recipe.augmentation, int(pixels.shape[-1]))
    order = torch.randperm(len(images))
    steps = len(images) // recipe.batch_size
    total, right, rate = 0.0, 0, 0.0
    kind = torch.device(device).type
    model.train()
    shown = bar(range(steps), f"epoch {epoch + 1}", shown=progress)
    for step in shown:
        rate = recipe.rate(epoch + step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        batch = torch.stack([change(pixels[i]) for i in chosen]).permute(0, 2, 3, 1).numpy()
        x, y = preprocessing(batch).to(device), labels[chosen].to(device)
        with torch.autocast(kind, torch.bfloat16, enabled=recipe.mixed_precision):
            logits = model(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.optimizer == "adamw":
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += float(loss.detach())
        right += int((logits.argmax(1) == y).sum())
        if step % 20 == 0:
            shown.set_postfix(loss=f"{total / (step + 1):.3f}", refresh=False)
    return total / steps, right / (steps * recipe.batch_size), rate


def accuracy_of(
    model: nn.Module,
    images: Images,
    preprocessing: Preprocessing,
    *,
    device: torch.device | str = "cpu",
) -> float:
    """Share of images whose label the model predicts in eval mode; its mode is restored."""
    training = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for x, y in Loader(images, preprocessing):
            right += int((model(x.to(device)).argmax(1).cpu() == y).sum())
    model.train(training)
    return right / len(images)


def write_log(rows: list[dict[str, float]], path: Path) -> None:
    """Writes rows of one set of columns as CSV, whole or not at all."""
    with whole_file(path) as temporary, temporary.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
