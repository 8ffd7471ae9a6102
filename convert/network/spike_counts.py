"""Sums of events by site, which stay on a GPU until somebody asks for them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class SpikeCounts:
    """Adds up the events of every site.

    Args:
        sites: their names.
    """

    def __init__(self, sites: Iterable[str]) -> None:
        self._known = dict.fromkeys(sites, 0)
        # By site and device: replicas of a network run on several.
        self._waiting: dict[tuple[str, torch.device], Tensor] = {}

    def add(self, site: str, events: int | Tensor) -> None:
        """Adds the events of one call: a number, or a tensor of no dimensions."""
        if isinstance(events, Tensor):
            place = site, events.device
            before = self._waiting.get(place)
            # A new tensor: others may have been told the same one.
            self._waiting[place] = events if before is None else before + events
        else:
            self._known[site] += events

    def totals(self) -> dict[str, int]:
        """The events of every site so far; waits once for each device."""
        totals = dict(self._known)
        for device in {device for _, device in self._waiting}:
            found = {site: t for (site, at), t in self._waiting.items() if at == device}
            for site, events in zip(found, torch.stack(list(found.values())).tolist(), strict=True):
                totals[site] += events
        return totals
