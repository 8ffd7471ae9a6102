"""From the words of a command line to a call; what is wrong with them is told in one line."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from cyclopts import App, CycloptsError
from cyclopts.argument import Argument
from cyclopts.exceptions import (
    CoercionError,
    ConsumeMultipleError,
    MissingArgumentError,
    UnusedCliTokensError,
)

from .endings import INTERRUPTED, NOBODY_READS, WRONG_USE, ended
from .options import WITHOUT_VALUE

_NOT_RUN = ("--help", "-h", "--version")
_MOST, _SHOWN = 400, 60


class WrongWords(Exception):
    """Words that no command can be called with."""


@dataclass(frozen=True)
class Words:
    """What the user typed, with options by their full names and with their values.

    Args:
        words: all of them.
        options: that the command has, by name; of help and the like none.
        given: names of the options among the words.
    """

    words: Sequence[str]
    options: Mapping[str, Argument] = field(default_factory=dict)
    given: frozenset[str] = frozenset()


def called(app: App, words: Sequence[str]) -> int:
    """Calls what the words ask for; returns the exit code.

    Args:
        app: one command, or several; each returns its exit code.
        words: what stands behind the program's name.
    """
    read = Words(words)
    try:
        read = spelled_out(app, words)
        found, given, _ = app.parse_args(read.words, print_error=False, exit_on_error=False)
    except (CycloptsError, WrongWords) as error:
        text = " ".join(_told(error, read).split())
        print(f"error: {text[:_MOST]} (--help lists the options)", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    if isinstance(getattr(found, "__self__", None), App):
        return _shown(lambda: found(*given.args, **given.kwargs))
    return int(found(*given.args, **given.kwargs) or 0)


def _shown(show: Callable[[], None]) -> int:
    """Shows help or the version, whose reader may have gone; returns the exit code."""
    try:
        return ended(show)
    except SystemExit:
        # The console's end where a pipe is broken.
        return NOBODY_READS


def spelled_out(app: App, words: Sequence[str]) -> Words:
    """The words, with a value where it may be left out.

    Raises:
        WrongWords: for an option that there isn't, is given twice, or begins as several do.
    """
    _, apps, rest = app.parse_commands(list(words))
    if apps[-1].default_command is None or set(_NOT_RUN) & set(words):
        return Words(words)
    options = _options(apps[-1])
    end = rest.index("--") if "--" in rest else len(rest)
    count: Counter[str] = Counter()
    made: list[str] = []
    for place, word in enumerate(rest[:end]):
        if word == "-" and made and made[-1] in options:
            # cyclopts would take it for an option.
            made[-1] += "=-"
            continue
        if not _is_option(word):
            made.append(word)
            continue
        name, equals, text = word.partition("=")
        name = _full_name(name, options)
        count[name] += 1
        flag = options[name].hint is bool
        if flag and equals:
            raise WrongWords(f"{name} takes no value, found {text[:_SHOWN]!r}")
        lone = place + 1 == end or _is_option(rest[place + 1])
        if name in WITHOUT_VALUE and not equals and lone and not flag:
            equals, text = "=", WITHOUT_VALUE[name]
        made.append(name + equals + text)
    for name, times in count.items():
        if times > 1:
            raise WrongWords(f"{name} is given {times} times; give it once, with all its values")
    command = words[: len(words) - len(rest)]
    return Words([*command, *made, *rest[end:]], options, frozenset(count))


def _is_option(word: str) -> bool:
    """Whether a word is neither a value nor a number below 0."""
    try:
        complex(word)
    except ValueError:
        return word.startswith("-") and word != "-"
    return False


def _options(app: App) -> dict[str, Argument]:
    """The options of a command, by their names."""
    found = app.assemble_argument_collection()
    return {n: argument for argument in found for n in argument.names if n.startswith("-")}


def _full_name(name: str, options: Mapping[str, Argument]) -> str:
    """The option that a word names, also by its first letters.

    Raises:
        WrongWords: if that is none, or several.
    """
    # cyclopts takes one for the other, too.
    name = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
    if name in options:
        return name
    meant = [full for full in options if full.startswith(name) and name.startswith("--")]
    if len(meant) > 1:
        raise WrongWords(f"{name} may be {', '.join(meant)}; write more of it")
    if not meant:
        near = get_close_matches(name, options, 1, 0.7)
        said = f"; did you mean {near[0]}?" if near else ""
        raise WrongWords(f"there is no option {name[:_SHOWN]}{said}")
    return meant[0]


def _told(error: CycloptsError | WrongWords, read: Words) -> str:
    """What is wrong, and with which option."""
    if isinstance(error, CoercionError) and error.argument is not None:
        return f"{_called(error.argument)}: {_reason(error, error.argument)}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = _called(error.argument)
        if isinstance(error, ConsumeMultipleError) or name in read.given:
            count = error.argument.parameter.n_tokens or 1
            return f"{name} needs {'a value' if count == 1 else f'{count} values'}"
        missing = [name, *(other for other in _needed(read) if other != name)]
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected: {' '.join(error.unused_tokens or ())[:_SHOWN]}"
    return str(error)


def _called(argument: Argument) -> str:
    """How the user calls an argument: by its option, or by what stands for it in the help."""
    by_place = argument.field_info.is_positional
    return str(argument.parameter.metavar) if by_place else argument.name


def _reason(error: CoercionError, argument: Argument) -> str:
    choices = argument.get_choices()
    if choices and error.token is not None:
        found = error.token.value[:_SHOWN]
        return f"invalid choice: {found!r} (choose from {', '.join(map(repr, choices))})"
    return str(error.__cause__ if error.msg is not None else error)


def _needed(read: Words) -> list[str]:
    """The options that can't be left out and are not among the words."""
    return [
        name
        for name, argument in read.options.items()
        if argument.required and not argument.field_info.is_positional and name not in read.given
    ]
