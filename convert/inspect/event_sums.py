"""Sums of events times synapses, for each image: exact, in one pass over the events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from ..common.devices import apart

Sums = npt.NDArray[np.float64]


class Synapses:
    """The synapses of a site's neurons at each target that they reach.

    Args:
        targets: their numbers.
        maps: for each, how often an event of each neuron comes there ``[neurons]``.
        neurons: how many there are.
        device: where tallies are.
    """

    def __init__(
        self,
        targets: Sequence[int],
        maps: Sequence[Tensor],
        neurons: int,
        device: torch.device | None = None,
    ) -> None:
        self.targets = list(targets)
        # The last row is for the events themselves.
        rows = [*maps, torch.ones(neurons)]
        self.rows = torch.stack([row.cpu().to(torch.int32) for row in rows]).to(device)


@dataclass
class Totals:
    """What one batch's events add up to, a number for each image, once it is `read`.

    What was counted on a GPU stays there until then, so that no layer waits for it.

    Args:
        arrived: by target, events that come there.
        active: by target, synapses of neurons that sent an event.
        events: by site, events that it sent.
    """

    arrived: list[Sums]
    active: list[Sums]
    events: dict[str, Sums]
    _waiting: list[tuple[str, list[int], Tensor]] = field(default_factory=list)

    @classmethod
    def empty(cls, targets: int, sites: Sequence[str], images: int) -> Totals:
        """Nothing yet."""
        return cls(
            [np.zeros(images) for _ in range(targets)],
            [np.zeros(images) for _ in range(targets)],
            {site: np.zeros(images) for site in sites},
        )

    def add(self, site: str, synapses: Synapses, tally: Tensor) -> None:
        """Adds one call of a site.

        Args:
            site: its name.
            synapses: of its neurons.
            tally: events of each neuron ``[N, neurons]``.
        """
        if apart(tally.device):
            found = torch.stack(_sums_in_torch(tally, synapses.rows))
            self._waiting.append((site, synapses.targets, found))
        else:
            self._add(site, synapses.targets, *sums(tally, synapses.rows))

    def _add(self, site: str, targets: Sequence[int], events: Sums, active: Sums) -> None:
        self.events[site] += events[:, -1]
        for column, target in enumerate(targets):
            self.arrived[target] += events[:, column]
            self.active[target] += active[:, column]

    def read(self) -> None:
        """Fetches what waits on a GPU, all of it at once."""
        if not self._waiting:
            return
        flat = torch.cat([found.flatten() for _, _, found in self._waiting]).cpu()
        sizes = [found.numel() for _, _, found in self._waiting]
        parts = zip(self._waiting, flat.split(sizes), strict=True)
        for (site, targets, found), part in parts:
            self._add(site, targets, *part.view(found.shape).numpy())
        self._waiting.clear()


def sums(tally: Tensor, rows: Tensor) -> tuple[Sums, Sums]:
    """For each row of numbers, the sum over events and over neurons with events ``[N, rows]``.

    Args:
        tally: events of each neuron ``[N, neurons]``, uint8 or int32.
        rows: a number for each neuron ``[rows, neurons]``, int32.
    """
    if apart(tally.device):
        events, active = (found.cpu().numpy() for found in _sums_in_torch(tally, rows))
        return events, active
    events, active = (np.zeros((len(tally), len(rows)), np.int64) for _ in range(2))
    # So many products can't exceed what an int32 holds.
    most = max(1, int(tally.max()) if tally.dtype != torch.uint8 else 255) * int(rows.max())
    block = max(1, (2**31 - 1) // max(most, 1))
    _add(tally.contiguous().numpy(), rows.numpy(), events, active, block)
    return events.astype(np.float64), active.astype(np.float64)


def _sums_in_torch(tally: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """`sums` on any device, which stay there; exact, as float64 holds whole numbers up to 2^53."""
    numbers = rows.double().t()
    return tally.double() @ numbers, (tally > 0).double() @ numbers


@njit(cache=True, nogil=True)
def _products(sent: Any, row: Any) -> Any:
    """Sums of 32 bits, so that a vector holds many; events weighted, and those that are above 0."""
    events, active = np.int32(0), np.int32(0)
    for i in range(len(sent)):
        number = row[i]
        events = np.int32(events + np.int32(np.int32(sent[i]) * number))
        active = np.int32(active + (number if sent[i] > 0 else np.int32(0)))
    return events, active


@njit(cache=True, nogil=True)
def _add(tally: Any, rows: Any, events: Any, active: Any, block: int) -> None:
    """Products with whole numbers, added up in blocks whose sums 32 bits hold."""
    images, neurons = tally.shape
    for n in range(images):
        for j in range(len(rows)):
            for first in range(0, neurons, block):
                part = slice(first, min(first + block, neurons))
                sent, some = _products(tally[n, part], rows[j, part])
                events[n, j] += sent
                active[n, j] += some
