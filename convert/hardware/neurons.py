"""A site's neurons in whole numbers: their integers, and what they do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..calibration.histogram import HIDDEN
from ..neuron.few_spikes import FewSpikesNeuron


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
        """Sums of weighted spikes for potentials int64 ``[...]``.

        The network's own neuron runs them in double precision, which holds all of these integers.
        """
        return self._doubles.decode(x.double()).to(torch.int64)

    @cached_property
    def _doubles(self) -> FewSpikesNeuron:
        numbers = (self.thresholds, self.resets, self.weights, self.offsets)
        if len(self.gates):
            return FewSpikesNeuron(*numbers, self.gates, dtype=torch.float64)
        return FewSpikesNeuron(*(n[0] for n in numbers), dtype=torch.float64)

    def stepwise(self, x: Tensor) -> Tensor:
        """The same, spike by spike on integers."""
        spikes, interval = self.spikes(x)
        y = _of(self.offsets, interval).expand(x.shape)
        for t in range(self.steps):
            y = y + _of(self.weights[:, t], interval) * spikes[t]
        return y

    def spikes(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Spikes bool ``[K, ...]`` of potentials int64 ``[...]``, and intervals (None without)."""
        interval = None
        if len(self.gates):
            interval = torch.zeros_like(x)
            for gate in self.gates:
                interval += x > gate
        v, fired = x, []
        for t in range(self.steps):
            spike = v > _of(self.thresholds[:, t], interval)
            v = v - _of(self.resets[:, t], interval) * spike
            fired.append(spike)
        return torch.stack(fired), interval


def _of(values: Tensor, interval: Tensor | None) -> Tensor:
    """The number of each value's own table, ``[...]`` or one for all, of ``[G]``."""
    return values[0] if interval is None else values[interval]


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
    whole = torch.where(-most > T, -most - 1, whole)
    whole = torch.where(thresholds.double() <= HIDDEN / 2, -most - 1, whole)
    h = torch.round(resets.double() / unit).to(torch.int64)
    g = torch.round(gates.double() / unit).clamp(-most, most).to(torch.int64)
    return WholeNeuron(whole, h, weights, offsets, g, most)
