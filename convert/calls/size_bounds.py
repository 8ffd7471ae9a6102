"""Bounds on a length, and what torch.export says of one in an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

_B = TypeVar("_B", bound="SizeBounds")


@dataclass(frozen=True)
class SizeBounds:
    """The lengths that a network was captured for.

    Args:
        least: the smallest.
        most: the largest; None for no bound.
        divisor: every length is a multiple of it.
        asked: the line of forward, or the table, that sets the bounds, where it is known.
    """

    least: int = 1
    most: int | None = None
    divisor: int = 1
    asked: str = ""

    @property
    def smallest(self) -> int:
        """The smallest length that is taken."""
        return -(-self.least // self.divisor) * self.divisor

    @property
    def free(self) -> bool:
        """Whether any length from 1 on is taken."""
        return self.least <= 1 and self.most is None and self.divisor == 1

    def holds(self, size: int) -> bool:
        """Whether a length is taken."""
        return size >= self.least and size % self.divisor == 0 and size <= (self.most or size)

    def at_least(self, size: int) -> int:
        """The smallest length that is taken and isn't below `size`, if there is one."""
        size = max(-(-size // self.divisor) * self.divisor, self.smallest)
        return size if self.most is None else min(size, self.most // self.divisor * self.divisor)


# Of a length that may be anything.
ANY = SizeBounds()


def as_dim(name: str, bounds: SizeBounds) -> Any:
    """A length for torch.export."""
    limits = {"min": bounds.least} | ({} if bounds.most is None else {"max": bounds.most})
    if bounds.divisor == 1:
        return torch.export.Dim(name, **limits)
    units = {limit: number // bounds.divisor for limit, number in limits.items()}
    units["min"] = max(-(-bounds.least // bounds.divisor), 1)
    return bounds.divisor * torch.export.Dim(f"_{name}", **units)


def suggested(message: str, now: _B, name: str = "batch") -> _B | None:
    """The bounds that torch.export asks for in an error, narrower than `now`; None for no such.

    Args:
        message: what torch says: ``batch = Dim('batch', max=63)``, ``batch = 8*_batch``.
        now: the bounds that it was given.
        name: of the length.
    """
    found = _lines(message, name)
    least, most, divisor = now.least, now.most, now.divisor
    for _, text in found:
        if multiple := re.fullmatch(rf"(\d+)\*_+{name}", text):
            divisor = int(multiple[1]) * (1 if text.count("_") == name.count("_") + 1 else divisor)
    for alias, text in found:
        if not text.startswith("Dim("):
            if "*" not in text:
                return None  # one length alone
            continue
        scale = divisor if alias.startswith("_") else 1
        if bound := re.search(r"min=(\d+)", text):
            least = max(least, scale * int(bound[1]))
        if bound := re.search(r"max=(\d+)", text):
            most = min(scale * int(bound[1]), scale * int(bound[1]) if most is None else most)
    if (least, most, divisor) == (now.least, now.most, now.divisor) or (most or least) < least:
        return None
    return replace(now, least=least, most=most, divisor=divisor, asked="")


def fixed(message: str, name: str, divisor: int = 1) -> int | None:
    """The one length that torch.export says will do, None if it says none.

    Args:
        message: what torch says: ``height = 32``.
        name: of the length.
        divisor: it was given as a multiple of this.
    """
    for alias, text in _lines(message, name):
        if text.isdecimal():
            return int(text) * (divisor if alias.startswith("_") else 1)
    return None


def related(message: str, name: str) -> str | None:
    """What torch.export says that a length must be by another: ``length``, ``length + 1``."""
    for _, text in _lines(message, name):
        own = re.fullmatch(rf"\d+\*_+{name}", text)
        if not (text.startswith("Dim(") or text.isdecimal() or own):
            return text
    return None


def _lines(message: str, name: str) -> list[tuple[str, str]]:
    """What torch suggests of a length, and of what it is a multiple of."""
    found = re.findall(rf"^\s*(_*{name}) = (.+)$", message, re.MULTILINE)
    return [(alias, text.strip()) for alias, text in found]
