"""Errors relative to how much the reference varies, summed over batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..common.device_sums import DeviceSum
from ..errors import InputError


class Spread:
    """Sums over images: of the squared error, and of the reference around its mean.

    The mean is that of each element over the images. Where images have several shapes, it is that
    over the axes that vary as well.

    Args:
        name: of the output, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # Images; values behind each of the sums.
        self.count = self._values = 0
        self._error, self._squares = DeviceSum(0.0), DeviceSum(0.0)
        # What the sums are measured from, and the sums; of length 1 where an axis varies.
        self.first: Tensor | None = None
        self.sums: Tensor | None = None
        self._pooled: tuple[int, ...] = ()

    def add(self, found: Tensor, reference: Tensor) -> None:
        """Adds outputs ``[N, ...]``, or one without dimensions."""
        if not reference.dim():
            found, reference = found[None], reference[None]
        found, reference = found.double(), reference.double()
        if not reference.numel():
            return
        if self.first is None or self.sums is None:
            # Measured from the first image's output, an output that never changes has no spread.
            self.first = reference[0].clone()
            self.sums = torch.zeros_like(self.first)
        self._pool(reference.shape[1:], self.first, self.sums)
        self._error.add((found - reference).square().sum())
        moved = reference - self.first
        self.count += len(moved)
        self._values += moved.numel() // self.first.numel()
        self.sums += moved.sum((0, *(axis + 1 for axis in self._pooled))).view_as(self.sums)
        self._squares.add(moved.square().sum())

    def _pool(self, shape: torch.Size, first: Tensor, sums: Tensor) -> None:
        """Takes the mean over the axes along which an image's shape isn't that of those before."""
        if len(shape) != first.dim():
            raise InputError(
                f"{self.name} was {[*first.shape]} for each image in an earlier batch and is "
                f"{[*shape]} now; give batches whose outputs have the same number of axes"
            )
        axes = [a for a, n in enumerate(shape) if n != first.shape[a] and a not in self._pooled]
        if not axes:
            return
        self._pooled = (*self._pooled, *axes)
        centre = first.mean(axes, keepdim=True)
        apart = first - centre
        self._squares.add((2 * apart * sums + self._values * apart.square()).sum())
        self.sums = (sums + self._values * apart).sum(axes, keepdim=True)
        self._values *= first.numel() // centre.numel()
        self.first = centre

    @property
    def error(self) -> float:
        """The sum of the squared error."""
        return self._error.value

    @property
    def squares(self) -> float:
        """The sum of the squares, from where they are measured."""
        return self._squares.value

    @property
    def varies(self) -> bool:
        """Whether images had several shapes."""
        return bool(self._pooled)

    @property
    def relative_error(self) -> float | None:
        """Root of error over spread; 0 without a difference, None for no finite number."""
        error = self.error
        if error == 0 or self.sums is None:
            return 0.0
        spread = self.squares - float(self.sums.square().sum()) / self._values
        value = error / spread if spread > 0 else math.inf
        return math.sqrt(value) if math.isfinite(value) else None


class RelativeError:
    """RMS difference over the RMS of the reference around its mean.

    The mean is each image's own over the classes. A network with one logit has no other class: its
    mean is that over all images, and all positions in them.
    """

    def __init__(self) -> None:
        self._error, self._power = DeviceSum(0.0), DeviceSum(0.0)
        self._single = Spread("the logit")

    def add(self, found: Tensor, reference: Tensor) -> None:
        """Adds outputs ``[N, classes, ...]``."""
        if reference.shape[1] == 1:
            self._single.add(found.flatten(), reference.flatten())
            return
        found, reference = found.double(), reference.double()
        centred = reference - reference.mean(1, keepdim=True)
        self._error.add((found - reference).square().sum())
        self._power.add(centred.square().sum())

    def join(self, other: RelativeError) -> None:
        """Adds what was added once to another; of outputs ``[N, 1, ...]`` nothing."""
        self._error.join(other._error)
        self._power.join(other._power)

    @property
    def value(self) -> float | None:
        """The relative error; 0 where there is no difference, None where it is no finite number."""
        if self._single.count:
            return self._single.relative_error
        error, power = self._error.value, self._power.value
        if power == 0:
            return 0.0 if error == 0 else None
        value = error / power
        return math.sqrt(value) if math.isfinite(value) else None
