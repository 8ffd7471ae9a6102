"""The check of a network's inputs on a GPU, which few calls wait for.

The first calls wait, as those on the CPU do, and warn at once. What is found of later ones is read
when the GPU has got there: a call that comes after it warns of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .range_check import Range, checked, inputs_outside, outside_flag

# So many calls of a network wait.
WAITING = 4
# Kinds of devices that may be behind.
KINDS = frozenset({"cuda"})


class LateCheck:
    """Whether inputs of a network on a GPU lie outside the calibrated range.

    It belongs to one network; a copy of it knows of no calls.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._outside: Tensor | None = None
        self._reading: _Reading | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> LateCheck:
        return LateCheck()

    def __reduce__(self) -> Any:
        return LateCheck, ()

    def inputs_outside(self, leaves: Iterable[Any], ranges: Iterable[Range]) -> tuple[bool, bool]:
        """Whether this call's inputs lie outside, and whether those of an earlier call did.

        The first is told only of calls that wait: the first ones, and each one that learns of an
        earlier call.

        Args:
            leaves: the flat inputs of the call.
            ranges: see `range_check.inputs_outside`.
        """
        pairs = checked(leaves, ranges)
        if not pairs or pairs[0][0].device.type not in KINDS:
            return inputs_outside(pairs), False
        if self._calls < WAITING:
            self._calls += 1
            return inputs_outside(pairs), False
        if self._told():
            return inputs_outside(pairs), True
        flag, before = outside_flag(pairs), self._outside
        same = before is not None and before.device == flag.device
        self._outside = before | flag if before is not None and same else flag
        if self._reading is None:
            self._reading, self._outside = _Reading(self._outside), None
        return False, False

    def _told(self) -> bool:
        """Whether the GPU has told of inputs outside; asked once for each."""
        reading = self._reading
        if reading is None or not reading.done():
            return False
        self._reading = None
        return reading.value()


class _Reading:
    """A flag on its way to the host."""

    def __init__(self, flag: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if flag.is_cuda:
            self._host = torch.empty((), dtype=flag.dtype, pin_memory=True)
            self._host.copy_(flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(flag.device))
        else:
            self._host = flag

    def done(self) -> bool:
        """Whether it has arrived."""
        return self._event is None or self._event.query()

    def value(self) -> bool:
        """The flag."""
        return bool(self._host)
