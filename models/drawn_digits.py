"""Digits that two networks draw from the same noise: paths, distances, and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .data import Images
from .diffusion import Denoiser, Schedule
from .errors import DataError, ModelError
from .registry import get, preprocessing
from .sample_distance import Seen, frechet_distance, kernel_distance, look, pixels
from .trajectory import Path

CLASSIFIER = "resnet8_digits"


class DrawnDigits:
    """The digits of one network, with which those of others are compared.

    Args:
        network: predicts the noise in images ``[N, C, H, W]`` at integer time steps ``[N]``.
        schedule: the one it was trained with.
        digits: real ones that it was not trained on.
        samples: how many to draw; at least 2, a distance needs a spread.
        seed: of all noise.
        settings: sampler, count, device, progress of `models.diffusion.sample`.

    Raises:
        ModelError: for fewer than 2 samples, or what `sample` refuses.
        DataError: for fewer than 2 digits.
    """

    def __init__(
        self,
        network: Denoiser,
        schedule: Schedule,
        digits: Images,
        samples: int,
        *,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        if samples < 2:
            raise ModelError(f"distances between drawn digits need at least 2, found {samples}")
        if len(digits) < 2:
            raise DataError(f"{digits.source}: distances to digits need at least 2, found 1")
        height, width, channels = digits.x.shape[1:]
        self.shape: Sequence[int] = (samples, channels, height, width)
        self.classifier = get(CLASSIFIER)
        self.path = Path(network, schedule, self.shape, seed=seed, **settings)
        self.drawn = self._look(pixels(self.path.images))
        self.real = self._look(digits)
        again = Path(network, schedule, self.shape, seed=seed + 1, **settings)
        noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))
        self.yardsticks = {
            # Of a set to itself there is nothing to say, and a real digit has no noise it is from.
            "original": self._compared(self.drawn, to_original=False),
            "original, another seed": self._compared(self._look(pixels(again.images))),
            "noise": self._compared(self._look(pixels(noise))),
            "held-out digits": {"recognised": self.real.recognised},
        }

    @property
    def images(self) -> Tensor:
        """What the network drew, in -1..1."""
        return self.path.images

    def follow(self, other: Denoiser) -> tuple[Tensor, dict[str, Any]]:
        """Draws with another network from the same noise: its digits, and figures in JSON's types.

        The figures are those of `Trajectory.to_dict`, Fréchet and kernel distance to the digits of
        the first network and to real ones, the share of recognised digits, and the share of those
        in the same class as the first network's digit from the same noise.
        """
        trajectory = self.path.follow(other)
        seen = self._look(pixels(trajectory.images))
        return trajectory.images, trajectory.to_dict() | self._compared(seen)

    def _look(self, images: Images) -> Seen:
        return look(self.classifier, preprocessing(CLASSIFIER), images)

    def _compared(self, seen: Seen, *, to_original: bool = True) -> dict[str, float]:
        result = {
            "frechet_to_digits": frechet_distance(seen.features, self.real.features),
            "kernel_to_digits": kernel_distance(seen.features, self.real.features),
            "recognised": seen.recognised,
        }
        if to_original:
            result |= {
                "frechet_to_original": frechet_distance(seen.features, self.drawn.features),
                "kernel_to_original": kernel_distance(seen.features, self.drawn.features),
                "same_class": float((seen.classes == self.drawn.classes).double().mean()),
            }
        return result
