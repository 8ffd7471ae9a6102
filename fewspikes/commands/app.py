"""All commands of `fewspikes`, and the way in from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable

from cyclopts import App, Group

import fewspikes

from . import convert, energy, evaluate, fit, info, page, quantise, saved, zoo
from .endings import EVERYWHERE
from .parsing import called

_EXIT = "Exit codes:\n"
_NETWORKS, _OTHERS = Group("Networks", sort_key=1), Group("Others", sort_key=2)
_COMMANDS: tuple[tuple[str, Callable[..., int], str, str, Group], ...] = (
    ("convert", convert.convert_model, convert.EXAMPLES, "", _NETWORKS),
    (
        "evaluate",
        evaluate.evaluate_network,
        evaluate.EXAMPLES,
        saved.CODES + evaluate.CODES,
        _NETWORKS,
    ),
    ("report", page.write_page, page.EXAMPLES, saved.CODES, _NETWORKS),
    ("energy", energy.price, energy.EXAMPLES, saved.CODES, _NETWORKS),
    ("quantise", quantise.quantise_network, quantise.EXAMPLES, saved.CODES, _NETWORKS),
    ("info", info.info, info.EXAMPLES, saved.CODES, _NETWORKS),
    ("zoo", zoo.zoo, zoo.EXAMPLES, "", _OTHERS),
    ("fit", fit.fit_function, fit.EXAMPLES, "", _OTHERS),
)
_FIRST = """\
Examples:
  fewspikes zoo
  fewspikes convert resnet8_digits --data digits --steps 4 --output out
  fewspikes evaluate out/resnet8_digits.fsnn --data digits
  fewspikes convert --help

Exit codes:
"""


def app() -> App:
    """All commands."""
    made = App(
        name="fewspikes",
        help="Converts trained networks into few-spikes networks and measures what that costs.",
        help_epilogue=_FIRST + EVERYWHERE,
        help_format="plaintext",
        version=f"fewspikes {fewspikes.__version__}",
    )
    for name, function, examples, codes, group in _COMMANDS:
        epilogue = f"{examples}\n{_EXIT}{_sorted(EVERYWHERE + codes)}"
        text = _unwrapped(function)
        made.command(function, name=name, help=text, help_epilogue=epilogue, group=group)
    made.register_install_completion_command(
        help="Make the shell complete commands and options; --shell names it.", group=_OTHERS
    )
    return made


def main() -> int:
    """Runs the command that the command line names; returns its exit code."""
    return called(app(), sys.argv[1:])


def script(function: Callable[..., int], name: str, epilogue: str = "") -> int:
    """Runs one command as a program of its own; returns its exit code.

    Args:
        function: the command.
        name: of the program.
        epilogue: what its help ends with.
    """
    alone = App(
        name=name,
        help_epilogue=f"{epilogue}\n{_EXIT}{_sorted(EVERYWHERE)}".lstrip("\n"),
        help_format="plaintext",
        version=f"fewspikes {fewspikes.__version__}",
        help=_unwrapped(function),
        default_command=function,
    )
    return called(alone, sys.argv[1:])


def _unwrapped(function: Callable[..., int]) -> str:
    """What a function says of itself, a line for each paragraph: a terminal has its own width."""
    return "\n\n".join(" ".join(p.split()) for p in (function.__doc__ or "").split("\n\n"))


def _sorted(codes: str) -> str:
    """Lines of exit codes in the order of their numbers."""
    return "\n".join(sorted(codes.splitlines(), key=lambda line: int(line.split()[0])))
