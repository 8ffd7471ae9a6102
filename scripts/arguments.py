"""What the scripts that aren't commands of `fewspikes` take; kinds of values are the commands'."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from fewspikes.commands.kinds import gates, seed_number


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


def add_gates(parser: argparse.ArgumentParser) -> None:
    """Adds the gates of a neuron."""
    parser.add_argument(
        "--gates",
        type=gates,
        default=0,
        metavar="N",
        help="N gates divide a neuron's inputs among N + 1 tables; 0 for one table",
    )
