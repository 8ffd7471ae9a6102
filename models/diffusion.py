"""Noise added to images step by step, and taken out again by a network that predicts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import ModelError
from .progress import bar

# Takes images [N, C, H, W] and time steps [N], gives the noise in them.
Denoiser = Callable[[Tensor, Tensor], Tensor]
SAMPLERS = ("ddpm", "ddim")
_BATCH = 250


@dataclass(frozen=True)
class Schedule:
    """How much of the image is left after each of T steps of noise.

    The share falls along a squared cosine (Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.2).

    Args:
        steps: T.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ModelError(f"a diffusion takes at least 2 steps, found {self.steps}")

    @cached_property
    def kept(self) -> Tensor:
        """alpha bar: share of the image's variance left after steps 0..T-1, float64 ``[T]``."""
        at = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        share = torch.cos((at + 0.008) / 1.008 * math.pi / 2).square()
        return torch.cumprod((share[1:] / share[:-1]).clamp(min=1e-3), 0)

    def add_noise(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` in -1..1 after step t, integers ``[N]``."""
        kept = self.kept[t.cpu()].to(images).view(-1, *[1] * (images.dim() - 1))
        return kept.sqrt() * images + (1 - kept).sqrt() * noise

    def before(
        self, x: Tensor, found: Tensor, noise: Tensor, t: int, to: int, eta: float
    ) -> Tensor:
        """Images one step of sampling earlier.

        Args:
            x: images at step t.
            found: the noise that the network sees in them.
            noise: fresh normal noise of their shape; not used at the last step.
            t: where the images are.
            to: where they go; below 0 for the end.
            eta: 1 for DDPM's ancestral sampling, 0 for DDIM's without fresh noise
                (Song et al. 2021, arXiv 2010.02502, equation 12).
        """
        now, then = float(self.kept[t]), float(self.kept[to]) if to >= 0 else 1.0
        clean = ((x - math.sqrt(1 - now) * found) / math.sqrt(now)).clamp(-1, 1)
        # What the clipped image says the noise was.
        found = (x - math.sqrt(now) * clean) / math.sqrt(1 - now)
        fresh = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
        return (
            math.sqrt(then) * clean
            + math.sqrt(max(1 - then - fresh**2, 0.0)) * found
            + fresh * noise
        )

    def visited(self, count: int | None = None) -> list[int]:
        """Time steps that sampling goes through, from the last to 0; all T if count is None."""
        count = self.steps if count is None else count
        if not 1 <= count <= self.steps:
            raise ModelError(f"sampling takes 1 to {self.steps} steps, found {count}")
        return [round(t) for t in torch.linspace(self.steps - 1, 0, count).tolist()]


def in_batches(network: Denoiser, x: Tensor, t: int) -> Tensor:
    """The network on images that are all at step t."""
    parts = [
        network(part, torch.full((len(part),), t, dtype=torch.long, device=part.device))
        for part in x.split(_BATCH)
    ]
    return torch.cat(parts)


def sample(
    network: Denoiser,
    schedule: Schedule,
    shape: Sequence[int],
    *,
    seed: int = 0,
    sampler: str = "ddpm",
    count: int | None = None,
    device: torch.device | str = "cpu",
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
    progress: bool = False,
) -> Tensor:
    """Draws images from noise; two networks with one seed start from and get the same noise.

    Args:
        network: predicts the noise in images at integer time steps.
        schedule: the one it was trained with.
        shape: ``[N, C, H, W]`` of the images.
        seed: of all noise.
        sampler: ``"ddpm"`` with fresh noise at every step, or ``"ddim"`` without.
        count: number of time steps to go through, all if None.
        device: where the network lives; the noise is drawn on the CPU.
        watch: told of every step, the images there, and the noise that the network saw.
        progress: shows a bar on stderr.

    Returns:
        Images in -1..1.

    Raises:
        ModelError: for an unknown sampler or a number of steps that the schedule lacks.
    """
    if sampler not in SAMPLERS:
        raise ModelError(f"no sampler is called {sampler!r}; choose from {', '.join(SAMPLERS)}")
    generator = torch.Generator().manual_seed(seed)
    visited = schedule.visited(count)
    x = torch.randn(*shape, generator=generator).to(device)
    eta = 1.0 if sampler == "ddpm" else 0.0
    with torch.no_grad():
        steps = bar(visited, "sample", shown=progress)
        for t, to in zip(steps, [*visited[1:], -1], strict=True):
            found = in_batches(network, x, t)
            if watch is not None:
                watch(t, x, found)
            noise = torch.randn(*shape, generator=generator).to(device)
            x = schedule.before(x, found, noise, t, to, eta)
    return x.clamp(-1, 1)
