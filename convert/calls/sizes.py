"""Lengths of the inputs that vary beside the batch: text of any length, images of any size."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError
from .size_bounds import ANY, SizeBounds

# A flat input and one of its axes.
Place = tuple[int, int]
# Shapes of the inputs of one batch, by their names.
Shapes = Mapping[str, tuple[int, ...]]


class NewShape(InputError):
    """An input has a length that the network was not captured for.

    Args:
        message: what is said of it.
        shapes: of all inputs of the call, by their names.
    """

    def __init__(self, message: str, shapes: Shapes) -> None:
        super().__init__(message)
        self.shapes = shapes


@dataclass(frozen=True)
class Size:
    """A length that varies, of one input or of several.

    Args:
        name: what it is called: ``length``.
        example: the length that was captured.
        bounds: the lengths that the network takes.
        longest: the largest that calibration saw.
    """

    name: str
    example: int
    bounds: SizeBounds = ANY
    longest: int = 0

    def __str__(self) -> str:
        """In words: ``length at most 40``."""
        bounds = self.bounds
        parts = [f"a multiple of {bounds.divisor}"] if bounds.divisor > 1 else []
        if bounds.smallest > bounds.divisor:
            parts.append(f"at least {bounds.smallest}")
        if bounds.most is not None:
            parts.append(f"at most {bounds.most}")
        return f"{self.name} {' and '.join(parts) or 'of any number'}"

    def check(self, owner: str, axis: int, length: int) -> None:
        """Refuses a length that the network doesn't take.

        Args:
            owner: the input that has it.
            axis: where.
            length: what was found there.

        Raises:
            InputError: with what is taken, and why.
        """
        if self.bounds.holds(length):
            return
        why = f" (set at {self.bounds.asked})" if self.bounds.asked else ""
        if length == 0:
            raise InputError(
                f"{owner} is empty: its axis {axis} has length 0; give at least "
                f"{self.bounds.smallest}"
            )
        most = self.bounds.most
        if most is not None and length > most:
            advice = f"cut it to {self.bounds.at_least(length)}, or give it in parts"
        elif length < self.bounds.smallest:
            advice = f"pad it to {self.bounds.smallest}"
        else:
            advice = f"pad or resize it to {self.bounds.at_least(length)}"
        raise InputError(
            f"{owner} has length {length} along axis {axis}; the network takes {self}: {advice}"
            f"{why}"
        )


def as_asked(axes: Iterable[tuple[str, int, str]]) -> str:
    """What to write so that some axes vary: ``dynamic={"input_ids": {1: "length"}}``.

    Args:
        axes: the input, the axis, and the name of its length.
    """
    by_input: dict[str, list[str]] = {}
    for owner, axis, name in axes:
        by_input.setdefault(owner, []).append(f'{axis}: "{name}"')
    inner = ", ".join(f'"{owner}": {{{", ".join(held)}}}' for owner, held in by_input.items())
    return f"dynamic={{{inner}}}"


def names_for(
    axes: Sequence[Place],
    shapes: Sequence[Sequence[tuple[int, ...] | None]],
    owners: Sequence[str],
    known: Mapping[Place, str] | None = None,
) -> dict[Place, str]:
    """A name for each of some axes; axes of different inputs that are always as long share one.

    Args:
        axes: where the lengths are.
        shapes: of the flat inputs of every batch that was seen; None for what is no tensor.
        owners: the name of every flat input.
        known: names of others.
    """
    names = dict(known or {})

    def lengths(place: Place) -> tuple[int, ...]:
        leaf, axis = place
        return tuple(shape[axis] for row in shapes if (shape := row[leaf]) is not None)

    for place in axes:
        leaf, axis = place
        if place in names:
            continue
        alike = (
            name
            for other, name in names.items()
            if other[0] != leaf and lengths(other) == lengths(place)
        )
        names[place] = next(alike, None) or _fresh(
            names.values(), owners[leaf], axis, len(shapes[0][leaf] or ())
        )
    return {place: names[place] for place in axes}


def _fresh(taken: Collection[str], owner: str, axis: int, rank: int) -> str:
    """A name that no other length has: of images ``[N, C, H, W]`` height or width."""
    plain = {2: "height", 3: "width"}.get(axis, "length") if rank == 4 else "length"
    name = plain if plain not in taken else f"{_identifier(owner)}_{plain}"
    while name in taken:
        name += f"_{axis}"
    return name


def _identifier(owner: str) -> str:
    text = "".join(c if c.isalnum() else "_" for c in owner).strip("_")
    return text if text.isidentifier() else f"input_{text}"
