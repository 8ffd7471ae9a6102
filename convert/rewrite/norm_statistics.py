"""How the centred input of every norm is spread over its channels, on calibration data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

# Statistics of few images are drawn to those of no image: mean 0, the norm's own deviation.
_PRIOR_IMAGES = 16
# A channel isn't taken as narrower than this share of the norm's own deviation.
_NARROWEST = 0.1


@dataclass(frozen=True)
class NormInput:
    """What a norm averages over.

    Args:
        source: the tensor that is normalised.
        centred: whether its mean is subtracted first.
        lengths: of the last dimensions, if the norm goes over those.
        groups: of the channels in dimension 1, if it goes over a group and all later dimensions.
    """

    source: Node
    centred: bool
    lengths: tuple[int, ...] = ()
    groups: int = 0

    def centre(self, x: Tensor) -> Tensor:
        """The input less the mean that the norm subtracts, double, channels last ``[rows, *]``.

        Channels are the elements of `lengths`, or those of dimension 1 by groups ``[G, C / G]``.
        """
        x = x.double()
        if not self.groups:
            x = x.reshape(-1, *self.lengths)
            dims = tuple(range(1, x.dim()))
            return x - x.mean(dims, keepdim=True) if self.centred else x
        x = x.reshape(x.shape[0], self.groups, x.shape[1] // self.groups, -1)
        x = x - x.mean((2, 3), keepdim=True)
        return x.permute(0, 3, 1, 2).flatten(0, 1)


@dataclass(frozen=True)
class Scales:
    """Spread of a norm's centred input.

    Args:
        mean, deviation: of every channel, double ``[*lengths]`` or ``[G, C / G]``.
        square: mean square of each group ``[G]``, or of everything ``[]``.
    """

    mean: Tensor
    deviation: Tensor
    square: Tensor


class Spread:
    """What a norm takes in, batch by batch."""

    def __init__(self, norm: NormInput) -> None:
        self.norm, self.rows = norm, 0
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Counts the tensor that the norm takes in."""
        centred = self.norm.centre(x)
        self.rows += len(centred)
        self.first = self.first + centred.sum(0)
        self.second = self.second + centred.square().sum(0)

    def scales(self, images: int) -> Scales:
        """Mean and deviation, drawn to the prior by the number of images."""
        first, second = (torch.as_tensor(s, dtype=torch.float64) for s in (self.first, self.second))
        mean, square = first / self.rows, second / self.rows
        share = images / (images + _PRIOR_IMAGES)
        whole = square.mean(-1) if self.norm.groups else square.mean()
        whole = torch.where(whole > 0, whole, 1.0)
        each = whole.unsqueeze(-1) if self.norm.groups else whole
        mean = mean * share
        variance = (square - mean.square()) * share + each * (1 - share)
        return Scales(mean, torch.maximum(variance, _NARROWEST**2 * each).sqrt(), whole)
