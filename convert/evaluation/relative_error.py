"""Errors relative to how much the reference varies, summed over batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InputError


class Spread:
    """Sums over images: of the squared error, and of the reference around its mean.

    The mean is that of each element over the images.

    Args:
        name: of the output, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.error = self.squares = 0.0
        self.first: Tensor | None = None
        self.sums: Tensor | None = None

    def add(self, found: Tensor, reference: Tensor) -> None:
        """Adds outputs ``[N, ...]``, or one without dimensions."""
        if not reference.dim():
            found, reference = found[None], reference[None]
        found, reference = found.double(), reference.double()
        if not len(reference):
            return
        if self.first is None or self.sums is None:
            # Measured from the first image's output, an output that never changes has no spread.
            self.first = reference[0].clone()
            self.sums = torch.zeros_like(self.first)
        if reference.shape[1:] != self.first.shape:
            raise InputError(
                f"{self.name} was {[*self.first.shape]} for each image in an earlier batch and is "
                f"{[*reference.shape[1:]]} now; give batches whose outputs have one shape"
            )
        self.error += float((found - reference).square().sum())
        moved = reference - self.first
        self.count += len(moved)
        self.sums += moved.sum(0)
        self.squares += float(moved.square().sum())

    @property
    def relative_error(self) -> float | None:
        """Root of error over spread; 0 without a difference, None for no finite number."""
        if self.error == 0 or self.sums is None:
            return 0.0
        spread = self.squares - float(self.sums.square().sum()) / self.count
        value = self.error / spread if spread > 0 else math.inf
        return math.sqrt(value) if math.isfinite(value) else None


class RelativeError:
    """RMS difference over the RMS of the reference around its mean.

    The mean is each image's own over the classes. A network with one logit has no other class: its
    mean is that over all images, and all positions in them.
    """

    def __init__(self) -> None:
        self._error = self._power = 0.0
        self._single = Spread("the logit")

    def add(self, found: Tensor, reference: Tensor) -> None:
        """Adds outputs ``[N, classes, ...]``."""
        if reference.shape[1] == 1:
            self._single.add(found.flatten(), reference.flatten())
            return
        found, reference = found.double(), reference.double()
        centred = reference - reference.mean(1, keepdim=True)
        self._error += float((found - reference).square().sum())
        self._power += float(centred.square().sum())

    @property
    def value(self) -> float | None:
        """The relative error; 0 where there is no difference, None where it is no finite number."""
        if self._single.count:
            return self._single.relative_error
        if self._power == 0:
            return 0.0 if self._error == 0 else None
        value = self._error / self._power
        return math.sqrt(value) if math.isfinite(value) else None
