"""The setting `dynamic`: which axes of the inputs may have any length, beside the batch."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping

from ..errors import InputError
from .setting_values import Pairs, whole

# Axes of one input, each with the name of its length; None for any name.
Axes = tuple[tuple[int, str | None], ...]


def axes_of(given: object) -> Pairs[Axes] | None:
    """The setting in one form; None where it asks for nothing.

    Args:
        given: axes by the name of an input: a dict of axis and name, or axes without names.

    Raises:
        InputError: with the form that would do.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise _wrong(given)
    found = {name: _of_input(wanted, given) for name, wanted in given.items()}
    return Pairs(found) if any(found.values()) else None


def axes_to_dict(axes: Mapping[str, Axes]) -> dict[str, dict[str, str | None]]:
    """The setting out of JSON's types."""
    return {owner: {str(axis): name for axis, name in held} for owner, held in axes.items()}


def _of_input(wanted: object, given: object) -> Axes:
    if isinstance(wanted, Mapping):
        pairs = list(wanted.items())
    elif isinstance(wanted, Iterable) and not isinstance(wanted, str):
        entries = list(wanted)
        paired = all(isinstance(entry, tuple) and len(entry) == 2 for entry in entries)
        pairs = entries if entries and paired else [(axis, None) for axis in entries]
    else:
        pairs = [(wanted, None)]
    return tuple((_axis(axis, given), _name(name)) for axis, name in pairs)


def _axis(axis: object, given: object) -> int:
    text = isinstance(axis, str) and axis.removeprefix("-").isdecimal()
    number = int(axis) if text else whole(axis)  # type: ignore[call-overload]
    if number is None:
        raise _wrong(given)
    return int(number)


def _name(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(
            f"dynamic must name lengths by words such as 'length', found {str(name)[:80]!r}"
        )
    if name.startswith("_"):
        raise InputError(f"dynamic names a length {name!r}; begin the name with a letter")
    return name


def _wrong(given: object) -> InputError:
    return InputError(
        "dynamic must give axes by the name of an input, as "
        f'{{"input_ids": {{1: "length"}}}} or {{"input_ids": [1]}}, found {str(given)[:80]}'
    )
