"""Training of a network that predicts noise: resumable, seeded, with a log."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoints import read_checkpoint, write_checkpoint
from .data import Images
from .diffusion import Schedule
from .errors import DataError, ModelError
from .progress import bar
from .training import cosine_rate, write_log


@dataclass(frozen=True)
class DiffusionRecipe:
    """How a noise predictor is trained.

    Args:
        epochs: passes over the images.
        batch_size: images a step; the incomplete last batch of an epoch is left out.
        learning_rate: of Adam at its peak.
        warmup: epochs in which the rate rises linearly; then it falls along a cosine to 0.
        average: decay of the running mean of the weights, which is what training gives.
        seed: of the weights, the order, the time steps and the noise.
    """

    epochs: int = 300
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: float = 5.0
    average: float = 0.995
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ModelError("a recipe needs at least one epoch and one image a batch")
        if not 0 <= self.average < 1:
            raise ModelError(f"the decay of the mean must be in [0, 1), found {self.average}")


def scaled(images: Images) -> Tensor:
    """uint8 ``[N, H, W, C]`` to float32 ``[N, C, H, W]`` in -1..1."""
    return torch.from_numpy(images.x).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_diffusion(
    model: nn.Module,
    images: Images,
    schedule: Schedule,
    recipe: DiffusionRecipe,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> list[dict[str, float]]:
    """Trains `model` in place, writing a checkpoint after every epoch and resuming from it.

    Every epoch draws its randomness from the seed and its own number, so that a training that
    was stopped and resumed ends with the weights of an undisturbed one.

    Args:
        model: freshly initialised, called with images ``[N, C, H, W]`` and time steps ``[N]``;
            its weights are overwritten if `folder` holds a checkpoint.
        images: what to train on.
        schedule: of the noise.
        recipe: how to train.
        folder: gets ``last.pt`` (to resume), ``log.csv`` and in the end ``weights.pt``.
        device: where to train.
        progress: shows a bar on stderr.

    Returns:
        One row an epoch, as in ``log.csv``.

    Raises:
        ModelError: if `folder` holds the checkpoint of another recipe.
        DataError: if there are too few images for one batch.
    """
    if len(images) < recipe.batch_size:
        raise DataError(
            f"{images.source}: {len(images)} images are fewer than one batch of "
            f"{recipe.batch_size}; lower the batch size"
        )
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    mean = {key: value.detach().clone() for key, value in model.state_dict().items()}
    settings = {"recipe": asdict(recipe), "noise_steps": schedule.steps}
    rows: list[dict[str, float]] = []
    last = folder / "last.pt"
    if last.is_file():
        content = read_checkpoint(last)
        if not isinstance(content, dict) or content.get("settings") != settings:
            raise ModelError(
                f"{last} was written by a training with another recipe; give the same options to "
                "resume it, or another folder to start anew"
            )
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        mean = {key: value.to(device) for key, value in content["mean"].items()}
        rows = list(content["rows"])
    x = scaled(images).to(device)
    first = len(rows)
    shown = bar(None, "train", shown=progress, total=recipe.epochs, initial=first)
    for epoch in range(first, recipe.epochs):
        begin = time.perf_counter()
        loss, rate = _epoch(model, optimizer, mean, x, schedule, recipe, epoch)
        seconds = time.perf_counter() - begin
        row = {"epoch": epoch + 1, "learning_rate": rate, "loss": loss, "seconds": seconds}
        rows.append({key: float(value) for key, value in row.items()})
        content = {
            "settings": settings,
            "model": model.state_dict(),
            "mean": mean,
            "optimizer": optimizer.state_dict(),
            "rows": rows,
        }
        write_checkpoint(content, last)
        write_log(rows, folder / "log.csv")
        shown.set_postfix(loss=f"{loss:.4f}", refresh=False)
        shown.update()
    shown.close()
    model.load_state_dict(mean)
    write_checkpoint({k: v.detach().cpu() for k, v in mean.items()}, folder / "weights.pt")
    model.eval()
    return rows


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    mean: dict[str, Tensor],
    x: Tensor,
    schedule: Schedule,
    recipe: DiffusionRecipe,
    epoch: int,
) -> tuple[float, float]:
    """Mean loss and the last learning rate."""
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(x))
    steps = len(x) // recipe.batch_size
    total, rate = 0.0, 0.0
    model.train()
    for step in range(steps):
        done = epoch + step / steps
        rate = cosine_rate(recipe.learning_rate, done, recipe.warmup, recipe.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = x[order[step * recipe.batch_size : (step + 1) * recipe.batch_size]]
        t = torch.randint(0, schedule.steps, (len(batch),)).to(x.device)
        noise = torch.randn(batch.shape).to(x.device)
        loss = F.mse_loss(model(schedule.add_noise(batch, noise, t), t), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += float(loss.detach())
        # Early on the mean follows the weights closely.
        taken = epoch * steps + step
        decay = min(recipe.average, (1 + taken) / (10 + taken))
        for key, value in model.state_dict().items():
            mean[key].lerp_(value, 1 - decay)
    return total / steps, rate


def loss_by_time(
    model: nn.Module, images: Tensor, schedule: Schedule, *, seed: int = 0, parts: int = 4
) -> list[float]:
    """Mean squared error of the predicted noise, for equal parts of the time steps.

    Args:
        model: in eval mode.
        images: ``[N, C, H, W]`` in -1..1.
        schedule: of the noise.
        seed: of time steps and noise.
        parts: how many parts; 1 for the whole.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[Any] = []
    with torch.no_grad():
        for part in range(parts):
            low, high = (schedule.steps * p // parts for p in (part, part + 1))
            t = torch.randint(low, high, (len(images),), generator=generator)
            noise = torch.randn(images.shape, generator=generator)
            seen = model(schedule.add_noise(images, noise, t), t)
            found.append(float(F.mse_loss(seen, noise)))
    return found
