"""Values of settings in one form: pairs that can't be changed, and Python's own whole numbers."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")


class Pairs(Mapping[str, _T]):
    """Values by name, in the order given; can't be changed."""

    def __init__(self, values: Mapping[str, _T]) -> None:
        self._pairs = tuple(values.items())

    def __getitem__(self, name: str) -> _T:
        return dict(self._pairs)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._pairs))

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        # Of the steps of sites the last pattern that matches decides, so the order counts.
        return isinstance(other, Mapping) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return repr(dict(self._pairs))


def whole(value: object) -> int | None:
    """A whole number of Python's, numpy's or torch's as Python's; None for anything else."""
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
