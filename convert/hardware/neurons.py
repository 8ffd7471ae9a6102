"""A site's neurons in whole numbers: their integers, and what they do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..calibration.histogram import HIDDEN


@dataclass(frozen=True)
class WholeNeuron:
    """Few-spikes neurons of one site, all numbers integers.

    ``v = x; for t: if v > T(t): y += d(t), v -= h(t)``, with the table of x's interval: as many as
    gates lie below x.

    Args:
        thresholds, resets, weights: T, h and d, int64 ``[G, K]``.
        offsets: y0, int64 ``[G]``.
        gates: int64 ``[G - 1]``.
        most: the largest potential; ``-most - 1`` is that of a hidden value, at which none fires.
    """

    thresholds: Tensor
    resets: Tensor
    weights: Tensor
    offsets: Tensor
    gates: Tensor
    most: int

    @property
    def steps(self) -> int:
        """K."""
        return self.thresholds.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Sums of weighted spikes for potentials int64 ``[...]``."""
        spikes, interval = self.spikes(x)
        y = self.offsets[interval]
        for t in range(self.steps):
            y = y + self.weights[:, t][interval] * spikes[t]
        return y

    def spikes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes bool ``[K, ...]`` and intervals int64 ``[...]`` of potentials int64 ``[...]``."""
        interval = (x[..., None] > self.gates).sum(-1)
        v, fired = x, []
        for t in range(self.steps):
            spike = v > self.thresholds[:, t][interval]
            v = torch.where(spike, v - self.resets[:, t][interval], v)
            fired.append(spike)
        return torch.stack(fired), interval


def whole_neuron(
    thresholds: Tensor,
    resets: Tensor,
    gates: Tensor,
    weights: Tensor,
    offsets: Tensor,
    *,
    unit: float,
    most: int,
) -> WholeNeuron:
    """Integers of a neuron whose output weights are whole already.

    Args:
        thresholds, resets: floating point ``[G, K]``.
        gates: ``[G - 1]``.
        weights, offsets: int64 ``[G, K]`` and ``[G]``.
        unit: of the potential.
        most: the largest potential.
    """
    T = thresholds.double() / unit
    # An input x that is rounded to a potential fires where x itself would.
    whole = torch.round(T).clamp(-most, most).to(torch.int64)
    # Below every value seen: all fire, a hidden one excepted.
    whole = torch.where(T < -most, -most - 1, whole)
    whole = torch.where(thresholds.double() <= HIDDEN / 2, -most - 1, whole)
    h = torch.round(resets.double() / unit).to(torch.int64)
    g = torch.round(gates.double() / unit).clamp(-most, most).to(torch.int64)
    return WholeNeuron(whole, h, weights, offsets, g, most)
