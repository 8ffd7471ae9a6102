"""What is done about images that can't be decoded: an error, or leaving a few of them out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .decoding import CorruptImageError
from .errors import DataError

_NAMED = 5


@dataclass(frozen=True)
class OnCorrupt:
    """What is done about images that can't be decoded.

    Args:
        skip: leaves them out; False makes the first one an error.
        limit: with `skip`, how many may be left out: a whole number of images, or a share of all
            below or equal to 1.0. More are an error.
    """

    skip: bool = False
    limit: int | float = 0.1

    def most(self, images: int) -> int:
        """How many of so many images may be left out."""
        if isinstance(self.limit, int):
            return self.limit
        return math.floor(self.limit * images + 1e-9)


class LeftOut:
    """Images of one source that couldn't be decoded, counted once each.

    Args:
        source: of the images, for messages.
        images: how many it has.
        policy: what is done about them.
    """

    def __init__(self, source: str, images: int, policy: OnCorrupt) -> None:
        self.source, self.images, self.policy = source, images, policy
        self._reasons: dict[int, CorruptImageError] = {}

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, failures: dict[int, CorruptImageError]) -> None:
        """Notes images, by their number in the source, with what was wrong.

        Raises:
            CorruptImageError: for the first one, where none may be left out.
            DataError: for more than the limit.
        """
        for number, error in failures.items():
            if not self.policy.skip:
                raise error
            self._reasons[number] = error
            most = self.policy.most(self.images)
            if len(self) > most:
                raise DataError(
                    f"{self.source}: more than {most} of {self.images} images can't be decoded "
                    f"(the last is {error.name}: {error.reason}); look at the files, or raise "
                    "--corrupt-limit"
                )

    def names(self) -> list[str]:
        """Names of the first few files."""
        return [self._reasons[n].name for n in sorted(self._reasons)[:_NAMED]]

    def to_dict(self) -> dict[str, Any]:
        """How many of how many, and the names of the first few."""
        return {"source": self.source, "count": len(self), "of": self.images, "first": self.names()}

    def __str__(self) -> str:
        more = "" if len(self) <= _NAMED else f" and {len(self) - _NAMED} more"
        return (
            f"{len(self)} of {self.images} images of {self.source} can't be decoded and were left "
            f"out: {', '.join(self.names())}{more}"
        )
