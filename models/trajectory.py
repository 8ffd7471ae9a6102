"""Two networks that predict noise, followed along their sampling from the same noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .data import Images
from .diffusion import Denoiser, Schedule, in_batches, sample
from .diffusion_training import scaled
from .errors import ModelError


def spread_error(found: Tensor, reference: Tensor) -> float:
    """RMS difference over the RMS of the reference around its mean over the images.

    The mean is taken for each element of ``[N, ...]``: 0 for equal outputs, 1 for what always
    gives the reference's mean output.

    Raises:
        ModelError: for a reference that is the same for all images, or not finite.
    """
    found, reference = found.double(), reference.double()
    spread = float((reference - reference.mean(0)).square().sum())
    if not 0 < spread < math.inf:
        raise ModelError(
            "the original gives the same output for every image, or one that is not finite, so "
            "that no error is relative to its spread; train it first"
        )
    return math.sqrt(float((found - reference).square().sum()) / spread)


@dataclass(frozen=True)
class Trajectory:
    """What a network draws, and how it leaves the path of another on the way.

    Args:
        images: what it draws, ``[N, C, H, W]`` in -1..1.
        times: the time steps in the order in which they are passed.
        error: at each of them, relative error of its output against the other's on its own images.
        drift: at each of them, relative distance of its images from the other's there.
        final_drift: of the images that are drawn.
    """

    images: Tensor
    times: list[int]
    error: list[float]
    drift: list[float]
    final_drift: float

    @property
    def mean_error(self) -> float:
        """Relative error averaged over the time steps."""
        return sum(self.error) / len(self.error)

    @property
    def mean_drift(self) -> float:
        """Drift averaged over the time steps."""
        return sum(self.drift) / len(self.drift)

    def to_dict(self) -> dict[str, Any]:
        """The figures, in JSON's types."""
        return {
            "relative_error": self.mean_error,
            "largest_relative_error": max(self.error),
            "drift": self.mean_drift,
            "final_drift": self.final_drift,
            "by_time": [
                {"t": t, "relative_error": e, "drift": d}
                for t, e, d in zip(self.times, self.error, self.drift, strict=True)
            ],
        }


class Path:
    """Images of one network at every time step of its sampling.

    Args:
        network: predicts the noise in images ``[N, C, H, W]`` at time steps ``[N]``.
        schedule: the one it was trained with.
        shape: of the images.
        settings: seed, sampler, count, device, progress of `sample`.
    """

    def __init__(
        self, network: Denoiser, schedule: Schedule, shape: Sequence[int], **settings: Any
    ) -> None:
        self.network, self.schedule, self.shape = network, schedule, shape
        self.settings = settings
        self.passed: list[Tensor] = []
        self.images = sample(
            network, schedule, shape, watch=lambda t, x, _: self.passed.append(x), **settings
        )

    def follow(self, other: Denoiser) -> Trajectory:
        """Draws with another network from the same noise, and compares at every time step."""
        times: list[int] = []
        error: list[float] = []
        drift: list[float] = []

        def watch(t: int, x: Tensor, found: Tensor) -> None:
            drift.append(spread_error(x, self.passed[len(times)]))
            error.append(spread_error(found, in_batches(self.network, x, t)))
            times.append(t)

        images = sample(other, self.schedule, self.shape, watch=watch, **self.settings)
        return Trajectory(images, times, error, drift, spread_error(images, self.images))


class NoisyImages:
    """Batches ``(noisy images, time steps)`` from all of a trajectory; the same each time.

    Each image comes `repeats` times, its time steps spread evenly over all T.

    Args:
        images: without noise.
        schedule: of the noise.
        repeats: how often each image comes.
        seed: of noise, time steps and order.
        batch_size: of the batches.

    Raises:
        ModelError: for fewer than one repeat.
    """

    def __init__(
        self,
        images: Images,
        schedule: Schedule,
        *,
        repeats: int = 1,
        seed: int = 0,
        batch_size: int = 250,
    ) -> None:
        if repeats < 1:
            raise ModelError(f"each image comes at least once, found {repeats} repeats")
        self.batch_size = batch_size
        generator = torch.Generator().manual_seed(seed)
        clean = scaled(images).repeat(repeats, 1, 1, 1)
        count = len(clean)
        self.t = torch.randperm(count, generator=generator) * schedule.steps // count
        noise = torch.randn(clean.shape, generator=generator)
        self.x = schedule.add_noise(clean, noise, self.t)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.x.split(self.batch_size), self.t.split(self.batch_size), strict=True)

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)
