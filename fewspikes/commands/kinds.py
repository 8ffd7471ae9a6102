"""What options take: kinds of numbers and paths, out of the text that a user gave.

Every kind names what it wants and what it found. Nothing here imports torch, which takes seconds:
a wrong option is refused at once.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

# Those of convert.fitting.problem.
MOST_STEPS, MOST_GATES = 63, 15
# What torch, and the seeds of epochs that are made of it, take.
_MOST_SEED = 2**32 - 1
_SHOWN = 40


class WrongValue(argparse.ArgumentTypeError, ValueError):
    """A text is no value of its kind."""


def place(text: str) -> Path:
    """A file or folder; an empty path would be the folder that one is in."""
    if not text:
        raise WrongValue("the path is empty")
    return Path(text)


def file_or_stdout(text: str) -> str:
    """A file to write, or ``-`` for stdout."""
    return os.fspath(place(text))


def whole(text: str) -> int:
    """A whole number of at least 1."""
    return _integer(text, 1, None)


def count(text: str) -> int:
    """A whole number of at least 0."""
    return _integer(text, 0, None)


def seed_number(text: str) -> int:
    """A seed: a whole number of 32 bits."""
    return _integer(text, 0, _MOST_SEED)


def steps(text: str) -> int:
    """K of a neuron."""
    return _integer(text, 1, MOST_STEPS)


def gates(text: str) -> int:
    """Gates of a neuron."""
    return _integer(text, 0, MOST_GATES)


def steps_or_auto(text: str) -> int | str:
    """K of a neuron, or auto."""
    return text if text == "auto" else steps(text)


def axis_name(text: str) -> tuple[str, int, str]:
    """``INPUT:AXIS=NAME``: an axis of an input that may have any length, and a name for it."""
    found = re.fullmatch(r"(\w+):(\d{1,2})=(\w+)", text)
    if found is None:
        raise WrongValue(
            f"must be INPUT:AXIS=NAME, as in input_ids:1=length, found {text[:_SHOWN]!r}"
        )
    return found[1], int(found[2]), found[3]


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    return _number(text, "a finite number", lambda value: True)


def positive(text: str) -> float:
    """A number above 0."""
    return _number(text, "a number > 0", lambda value: value > 0)


def at_least_zero(text: str) -> float:
    """A number of at least 0."""
    return _number(text, "a number >= 0", lambda value: value >= 0)


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    return _number(text, "a fraction from 0 to 1", lambda value: 0 <= value <= 1)


def share_or_count(text: str) -> int | float:
    """A whole number of things, or a share of all: ``0.02``, ``2%``, ``1.0`` for all."""
    if re.fullmatch(r"\d{1,12}", text):
        return int(text)
    percent = text.endswith("%")
    try:
        value = float(text.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise WrongValue(
            f"must be a whole number, or a share as 0.02 or 2%, found {text[:_SHOWN]!r}"
        )
    return value


def below_one(text: str) -> float:
    """A number from 0 to 1, but not 1."""
    return _number(text, "a number >= 0 and < 1", lambda value: 0 <= value < 1)


def _integer(text: str, least: int, most: int | None) -> int:
    try:
        value = int(text) if len(text) <= _SHOWN else None
    except ValueError:
        value = None
    if value is None or value < least or (most is not None and value > most):
        wanted = f">= {least}" if most is None else f"from {least} to {most}"
        raise WrongValue(f"must be a whole number {wanted}, found {text[:_SHOWN]!r}")
    return value


def _number(text: str, wanted: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not fits(value):
        raise WrongValue(f"must be {wanted}, found {text[:_SHOWN]!r}")
    return value
