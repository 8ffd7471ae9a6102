"""Passes over a graph: what each requires, and what it leaves true.

`capture.PASSES` and `sites.prepare.PASSES` are the lists; an order in which a requirement isn't met
is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from ..errors import ConversionError

State = TypeVar("State")


class Fact(StrEnum):
    """What a pass can leave true of a graph."""

    PLAIN = "ATen operations alone, with flat inputs and outputs"
    CONSTANTS = "what depends on no input is a buffer"
    NO_BATCH_NORM = "no batch norm is left"
    NORMS = "a norm is one operation, however it was written"
    LAYERS = "the output of every layer is marked"
    APART = "what the settings take apart is apart"
    SITES = "every nonlinear function of one tensor is called as a module"
    ENCODED = "the operands that the settings encode have a site"
    LAID_OUT = "views, permutations and copies are as few as they can be"
    NEURONS = "every site is a neuron"


@dataclass(frozen=True)
class Pass(Generic[State]):
    """One pass.

    Args:
        name: what it does, for messages.
        requires: what has to be true before it.
        leaves: what is true after it, beside what was true before.
        run: changes the state in place.
    """

    name: str
    requires: frozenset[Fact]
    leaves: frozenset[Fact]
    run: Callable[[State], None]


def run(passes: Sequence[Pass[State]], state: State, given: Iterable[Fact]) -> None:
    """Runs passes one after the other.

    Args:
        passes: in their order.
        state: what they change.
        given: what is true at the start.

    Raises:
        ConversionError: for an order in which a requirement isn't met; nothing has run then.
    """
    check(passes, given)
    for each in passes:
        each.run(state)


def check(passes: Iterable[Pass[State]], given: Iterable[Fact]) -> frozenset[Fact]:
    """What is true after the last pass.

    Raises:
        ConversionError: naming the first pass whose requirement isn't met.
    """
    known = frozenset(given)
    for each in passes:
        for missing in sorted(each.requires - known):
            raise ConversionError(
                f"the pass {each.name!r} requires that {missing}, which no pass before it leaves "
                "true; move it behind one that does"
            )
        known |= each.leaves
    return known
