"""What a network expects of an image."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import ModelError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


@dataclass(frozen=True)
class Preprocessing:
    """Size, mean and standard deviation (of values in 0..1, per channel) and number of classes."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int

    def __post_init__(self) -> None:
        whole = all(type(n) is int and n >= 1 for n in (self.size, self.classes))
        if not whole or len(self.mean) != len(self.std) or not self.mean:
            raise ModelError(
                f"no preprocessing has size {self.size}, {self.classes} classes, "
                f"{len(self.mean)} means and {len(self.std)} standard deviations; it needs whole "
                "numbers >= 1, and one mean and one deviation for each channel"
            )
        fits = all(math.isfinite(v) for v in (*self.mean, *self.std)) and min(self.std) > 0
        if not fits:
            raise ModelError(
                f"a preprocessing needs finite means and deviations > 0, found mean {self.mean} "
                f"and std {self.std}"
            )

    def __call__(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 ``[N, H, W, C]`` to float32 ``[N, C, size, size]``, resized if necessary."""
        channels = images.shape[-1]
        if 1 not in (channels, len(self.mean)) and channels != len(self.mean):
            raise ModelError(
                f"the images have {channels} channels, and mean and std are for {len(self.mean)}; "
                "give one value, or one for each channel"
            )
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        shape = (1, -1, 1, 1)
        return (x - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)

    @classmethod
    def from_dict(cls, values: Any) -> Preprocessing:
        """What `to_dict` gave, read back from a file.

        Raises:
            ModelError: if an entry is missing or no number.
        """
        try:
            size, classes = int(values["size"]), int(values["classes"])
            mean, std = (tuple(float(v) for v in values[key]) for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"{values!r:.200} is no preprocessing; it needs size, mean, std and classes"
            ) from error
        return cls(size, mean, std, classes)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
