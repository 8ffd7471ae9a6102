"""What a network expects of an image."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pictures

from .errors import ModelError, NoPreprocessingError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True, repr=False)
class Preprocessing:
    """How an image becomes a network's input.

    Args:
        size: side of the square input in pixels.
        mean, std: of values in 0..1, for each channel.
        classes: of the network.
        resize: the shorter side to which an image is resized before a square of `size` is cut out
            of its middle, as torchvision's and timm's weights ask for. None resizes the whole
            image to a square of `size`, whatever its shape.
        squash: with `resize`, makes both sides of that length instead.
        interpolation: of `resize`, by Pillow's name.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    resize: int | None = None
    squash: bool = False
    interpolation: str = "bilinear"

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
        if self.resize is not None and (type(self.resize) is not int or self.resize < self.size):
            raise ModelError(
                f"images resized to {self.resize} pixels hold no square of {self.size}; resize "
                "must be a whole number and at least the size"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ModelError(
                f"no interpolation is called {self.interpolation!r}; choose from "
                f"{', '.join(INTERPOLATIONS)}"
            )

    def __call__(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 ``[N, H, W, C]`` to float32 ``[N, C, size, size]``, resized if necessary."""
        self._check_channels(images.shape[-1])
        if self.resize is not None:
            images = np.stack([self._cropped(image) for image in images])
        return self._shifted(self._whole(images))

    def fitted(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8 | np.float32]:
        """One image uint8 ``[H, W, C]`` as ``[size, size, C]``.

        It stays uint8 where `resize` is given, and is float32 in 0..1 without.

        Raises:
            ModelError: for another number of channels.
        """
        self._check_channels(image.shape[-1])
        if self.resize is not None:
            return self._cropped(image)
        return np.asarray(self._whole(image[None])[0].permute(1, 2, 0).numpy())

    def normalised(self, images: npt.NDArray[np.uint8 | np.float32]) -> Tensor:
        """What `fitted` gave, ``[N, size, size, C]``, as float32 ``[N, C, size, size]``.

        The result is that of a call on the images, bit for bit.
        """
        if images.dtype == np.uint8:
            return self._shifted(_scaled(images))
        return self._shifted(torch.from_numpy(images).permute(0, 3, 1, 2))

    def _whole(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 ``[N, H, W, C]`` as float32 ``[N, C, size, size]`` in 0..1."""
        x = _scaled(images)
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return x

    def _shifted(self, x: Tensor) -> Tensor:
        """Values in 0..1 around the mean, in deviations."""
        shape = (1, -1, 1, 1)
        return (x - torch.tensor(self.mean).view(shape)).div_(torch.tensor(self.std).view(shape))

    def _check_channels(self, channels: int) -> None:
        if 1 not in (channels, len(self.mean)) and channels != len(self.mean):
            raise ModelError(
                f"the images have {channels} channels, and mean and std are for {len(self.mean)}; "
                "give one value, or one for each channel"
            )

    def _cropped(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 ``[H, W, C]`` to ``[size, size, C]`` as torchvision's transforms do it."""
        assert self.resize is not None
        side = [self.resize, self.resize] if self.squash else [self.resize]
        gray = image.shape[-1] == 1
        picture = Image.fromarray(image[..., 0] if gray else np.ascontiguousarray(image))
        picture = pictures.resize(picture, side, InterpolationMode(self.interpolation))
        found = np.asarray(pictures.center_crop(picture, [self.size, self.size]))
        return found[..., None] if gray else found

    @classmethod
    def from_dict(cls, values: Any) -> Preprocessing:
        """What `to_dict` gave, read back from a file.

        Raises:
            ModelError: if an entry is missing or no number.
        """
        try:
            size, classes = int(values["size"]), int(values["classes"])
            mean, std = (tuple(float(v) for v in values[key]) for key in ("mean", "std"))
            resize = None if values.get("resize") is None else int(values["resize"])
            squash = bool(values.get("squash", False))
            interpolation = str(values.get("interpolation", cls.interpolation))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"{values!r:.200} is no preprocessing; it needs size, mean, std and classes"
            ) from error
        return cls(size, mean, std, classes, resize, squash, interpolation)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and lists; what resizing needs only where it is asked for."""
        found = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if self.resize is None:
            for name in ("resize", "squash", "interpolation"):
                found.pop(name)
        return found

    def __repr__(self) -> str:
        named = self.to_dict()
        listed = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name in named)
        return f"{type(self).__name__}({', '.join(listed)})"


def _scaled(images: npt.NDArray[np.uint8 | np.float32]) -> Tensor:
    """uint8 ``[N, H, W, C]`` as float32 ``[N, C, H, W]`` in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def with_options(
    base: Preprocessing | None,
    *,
    size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
) -> Preprocessing:
    """A preprocessing with some of its values overridden.

    Args:
        base: what holds where nothing is given; None if all has to be.
        size, classes, resize, interpolation: in place of its own. Where a size is given alone, the
            side to which images are resized keeps its ratio to it.
        mean, std: in place of its own; one value holds for all channels.

    Raises:
        ModelError: for another number of channels, or a value that can't be used.
    """
    given: dict[str, Any] = {"size": size, "mean": mean, "std": std, "classes": classes}
    if base is None:
        missing = [f"--{name}" for name, value in given.items() if value is None]
        if missing:
            raise NoPreprocessingError(
                f"the model doesn't say how its images are prepared; give {' '.join(missing)}"
            )
        most = max(mean or (), std or (), key=len)
        base = Preprocessing(size or 0, most, (1.0,) * len(most), classes or 0)
    channels = len(base.mean)
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, channels):
            raise ModelError(
                f"{name} has {len(values)} values and the images have {channels} channels; give "
                "one value, or one for each channel"
            )
    given["mean"], given["std"] = (
        v * channels if v is not None and len(v) == 1 else v for v in (mean, std)
    )
    if size is not None and base.resize is not None and resize is None:
        resize = round(base.resize * size / base.size)
    given |= {"resize": resize, "interpolation": interpolation}
    return replace(base, **{k: v for k, v in given.items() if v is not None})
