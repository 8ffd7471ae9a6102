"""Spikes of a simulation that the fast run has not, or the reverse, and how near they were."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..neuron.few_spikes import FewSpikesNeuron


@dataclass
class Flips:
    """How far a simulation and the fast run are apart.

    Args:
        spikes: in the fast run.
        sites: differing spikes by site; a value that runs another table counts with all of its
            spikes in which both differ, or with one.
        ulps: of each of these sites, the largest distance of a potential from its threshold, or of
            an input from its gate, at the first step at which a neuron's runs differ, in units of
            the last place of whichever is larger, the threshold or the input.
    """

    spikes: int = 0
    sites: dict[str, int] = field(default_factory=dict)
    ulps: dict[str, float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Differing spikes of all sites."""
        return sum(self.sites.values())

    @property
    def share(self) -> float:
        """Differing spikes over those of the fast run."""
        return self.count / max(self.spikes, 1)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        return {
            "count": self.count,
            "spikes": self.spikes,
            "share": self.share,
            "sites": dict(self.sites),
            "ulps": dict(self.ulps),
        }

    def __str__(self) -> str:
        if not self.count:
            return f"All {self.spikes} spikes are those of the fast run."
        first = next(iter(self.sites))
        return (
            f"{self.count} of {self.spikes} spikes ({self.share:.2g}) differ from the fast run's, "
            f"first at {first}, whose potentials were within {self.ulps[first]:.3g} units in the "
            "last place of their thresholds."
        )

    def compare(
        self,
        site: str,
        neuron: FewSpikesNeuron,
        spikes: Tensor,
        interval: Tensor | None,
        fast_input: Tensor,
    ) -> None:
        """Adds one call of a site.

        Args:
            site: its name.
            neuron: its neurons.
            spikes, interval: of the simulation, ``[K, ...]`` and ``[...]``.
            fast_input: what comes to the site in the fast run, ``[...]``.
        """
        fast = neuron.spikes(fast_input)
        self.spikes += int(fast.sum())
        differs = spikes ^ fast
        other = None if interval is None else neuron.interval(fast_input) != interval
        flipped = differs.any(0) if other is None else differs.any(0) | other
        if not bool(flipped.any()):
            return
        amount = differs.sum(0)
        if other is not None:
            amount = torch.where(other, amount.clamp_min(1), amount)
        self.sites[site] = self.sites.get(site, 0) + int(amount.sum())
        x = fast_input[flipped].detach()
        first = differs[:, flipped].int().argmax(0)
        moved = None if other is None else other[flipped]
        far = _distance(neuron, x, first, moved)
        self.ulps[site] = max(self.ulps.get(site, 0.0), far)


def _distance(neuron: FewSpikesNeuron, x: Tensor, first: Tensor, moved: Tensor | None) -> float:
    """The largest distance from a threshold or gate at the first difference, in last places.

    Args:
        neuron: the neurons.
        x: inputs ``[n]``.
        first: the step at which each differs, from 0.
        moved: which run another table.
    """
    T, h = neuron.thresholds.detach().to(x.dtype), neuron.resets.detach().to(x.dtype)
    if neuron.gates is not None:
        index = neuron.interval(x)
        T, h = T.t()[:, index], h.t()[:, index]
    else:
        T, h = T[:, None].expand(-1, len(x)), h[:, None].expand(-1, len(x))
    v, near, at = x, torch.zeros_like(x), torch.zeros_like(x)
    for t in range(neuron.steps):
        here = first == t
        near = torch.where(here, (v - T[t]).abs(), near)
        at = torch.where(here, torch.maximum(T[t].abs(), x.abs()), at)
        v = v - h[t] * (v > T[t]).to(v.dtype)
    if moved is not None and neuron.gates is not None:
        gaps, nearest = (x[:, None] - neuron.gates.detach().to(x.dtype)).abs().min(1)
        gate = neuron.gates.detach().to(x.dtype)[nearest].abs()
        near = torch.where(moved, gaps, near)
        at = torch.where(moved, torch.maximum(gate, x.abs()), at)
    place = torch.nextafter(at, torch.full_like(at, torch.inf)) - at
    return float((near / place).max())
