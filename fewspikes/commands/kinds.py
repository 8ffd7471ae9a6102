"""What options take: kinds of numbers, and a parser that refuses an option given twice.

Every kind names what it wants and what it found. Nothing here imports torch, which takes seconds:
a wrong option is refused at once.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

# Those of convert.fitting.problem and convert.fitting.methods.
MOST_STEPS, MOST_GATES = 63, 15
METHODS = ("binary", "random", "random-best", "tbpi", "tbpi-exact")
DEFAULT_METHOD = "tbpi-exact"
EFFORTS = ("normal", "high")
# What torch, and the seeds of epochs that are made of it, take.
_MOST_SEED = 2**32 - 1
_SHOWN = 40


class Parser(argparse.ArgumentParser):
    """A parser that takes every option once; the last of several would win in silence."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = super().parse_known_args(args, namespace)
        words = self._words(args)
        count = Counter(name for name in map(self._named, words) if name is not None)
        for name, times in count.items():
            if times > 1:
                self.error(f"{name} is given {times} times; give it once, with all its values")
        return given

    @staticmethod
    def _words(args: Sequence[str] | None) -> list[str]:
        words = list(sys.argv[1:] if args is None else args)
        return words[: words.index("--")] if "--" in words else words

    def _named(self, word: str) -> str | None:
        """The option that a word names, also by its first letters."""
        name = word.partition("=")[0]
        if not name.startswith("--"):
            return None
        known = self._option_string_actions
        meant = [name] if name in known else [full for full in known if full.startswith(name)]
        return meant[0] if len(meant) == 1 else None

    def error(self, message: str) -> NoReturn:
        """Ends with one line and code 2."""
        self.exit(2, f"error: {' '.join(message.split())} (--help lists the options)\n")


def add_common(parser: argparse.ArgumentParser, *, seed: int | None = 0) -> None:
    """Adds the options that all commands have.

    Args:
        parser: of the command.
        seed: where none is given; None for a command that draws nothing.
    """
    if seed is not None:
        parser.add_argument("--seed", type=seed_number, default=seed, metavar="N")
    parser.add_argument("--quiet", action="store_true", help="no progress, results alone")
    parser.add_argument("--traceback", action="store_true", help="show it on an error")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Adds how images are read: by how many processes, and what is done about corrupt ones."""
    parser.add_argument(
        "--workers", type=count, default=0, metavar="N", help="processes that decode images"
    )
    parser.add_argument(
        "--corrupt",
        choices=("error", "skip"),
        default="error",
        help="what is done about images that can't be decoded; skip leaves them out and says which",
    )
    parser.add_argument(
        "--corrupt-limit",
        type=share_or_count,
        default=0.1,
        metavar="N|SHARE",
        help="the most that --corrupt skip leaves out: images, or a share as 0.02 or 2%%; 10%% if "
        "left out",
    )


def place(text: str) -> Path:
    """A file or folder; an empty path would be the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def add_gates(parser: argparse.ArgumentParser) -> None:
    """Adds the gates of a neuron."""
    parser.add_argument(
        "--gates",
        type=gates,
        default=0,
        metavar="N",
        help="N gates divide a neuron's inputs among N + 1 tables; 0 for one table",
    )


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
        raise argparse.ArgumentTypeError(
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
        raise argparse.ArgumentTypeError(
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
        raise argparse.ArgumentTypeError(
            f"must be a whole number {wanted}, found {text[:_SHOWN]!r}"
        )
    return value


def _number(text: str, wanted: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not fits(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}, found {text[:_SHOWN]!r}")
    return value
