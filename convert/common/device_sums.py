"""Sums that stay on a GPU until somebody reads them, so that no batch waits for it."""

from __future__ import annotations

import torch
from torch import Tensor


class DeviceSum:
    """A sum of numbers and of tensors without dimensions, in the order in which they are added.

    Args:
        start: 0 for a sum of whole numbers, 0.0 for one of float64.
    """

    def __init__(self, start: int | float) -> None:
        self._known: int | float = start
        self._waiting: Tensor | None = None

    def add(self, number: int | float | Tensor) -> None:
        """Adds a number; a tensor of whole numbers or of float64 without dimensions."""
        if not isinstance(number, Tensor):
            self._known = self.value + number
            return
        if self._waiting is not None and self._waiting.device != number.device:
            self._known, self._waiting = self.value, None
        if self._waiting is None:
            kind = torch.int64 if isinstance(self._known, int) else torch.float64
            self._waiting = torch.full((), self._known, dtype=kind, device=number.device)
        self._waiting = self._waiting + number

    def join(self, other: DeviceSum) -> None:
        """Adds what was added to another."""
        self.add(other.value)

    def __getstate__(self) -> dict[str, int | float | None]:
        """The number alone, wherever it was summed: it goes to other processes and into files."""
        return {"_known": self.value, "_waiting": None}

    @property
    def value(self) -> int | float:
        """The sum so far; waits for the GPU if something was added there since."""
        if self._waiting is not None:
            self._known, self._waiting = self._waiting.item(), None
        return self._known
