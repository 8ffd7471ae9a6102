"""How every command ends: errors of use, Ctrl-C and SIGTERM in one line, and the exit code.

An error of use ends with 2, Ctrl-C with 130 and SIGTERM with 143; temporary files are removed
before.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from output import OutputError, check_file, output_folder

if TYPE_CHECKING:
    from models.corrupt import LeftOut

WRONG_USE, INTERRUPTED, TERMINATED, NOBODY_READS = 2, 130, 143, 141


class Refusal(Exception):
    """An error of use with the exit code that says whose."""

    def __init__(self, code: int, error: object) -> None:
        super().__init__(str(error))
        self.code = code


def _refusals() -> tuple[type[Exception], ...]:
    """The errors of use that the packages raise; none where they weren't imported."""
    found: list[type[Exception]] = [Refusal, OutputError]
    for package, names in (
        ("convert", ["ConversionError"]),
        ("models", ["ModelError", "DataError"]),
    ):
        module = sys.modules.get(package)
        found += [getattr(module, name) for name in names if hasattr(module, name)]
    return tuple(found)


def told_left_out(
    options: argparse.Namespace, sources: Mapping[str, LeftOut]
) -> dict[str, dict[str, Any]]:
    """Warns of images that were left out; gives what a report says of them, if any may be.

    Args:
        options: those of `arguments.add_reading` among them.
        sources: images that were left out, by what they were for.
    """
    for left_out in sources.values():
        if len(left_out):
            print(f"warning: {left_out}", file=sys.stderr)
    if options.corrupt != "skip":
        return {}
    return {"skipped": {name: left_out.to_dict() for name, left_out in sources.items()}}


class Terminated(BaseException):
    """SIGTERM came."""


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int | None],
    *,
    writes: Callable[[argparse.Namespace], Sequence[str]] | None = None,
    files: Sequence[str] = (),
) -> int:
    """Parses the options, looks at where results go, runs, and returns the exit code.

    Of the processes that torchrun started only the first writes and prints, but for errors.

    Args:
        parser: of the command; has ``--traceback``.
        run: the command; may return an exit code.
        writes: names of the files in ``--output``, a folder that is this run's alone.
        files: options, as attributes, that name a file to write.
    """
    options = parser.parse_args()
    try:
        with _orderly(), ExitStack() as stack:
            for name in files:
                if getattr(options, name) not in (None, "-"):
                    check_file(getattr(options, name))
            if not first_process():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            elif writes is not None:
                stack.enter_context(output_folder(options.output, writes(options)))
            return run(options) or 0
    except Exception as error:
        if options.traceback or not isinstance(error, (*_refusals(), OSError)):
            raise
        if isinstance(error, BrokenPipeError):
            return _nobody_reads()
        if first_process() or type(error).__name__ != "RankFailed":
            print(f"{_whose()}: {_one_line(error)}", file=sys.stderr)
        return error.code if isinstance(error, Refusal) else WRONG_USE
    except KeyboardInterrupt:
        _say_stopped("Ctrl-C")
        return INTERRUPTED
    except Terminated:
        _say_stopped("SIGTERM")
        return TERMINATED


def first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _whose() -> str:
    return "error" if first_process() else f"error in process {os.environ['RANK']}"


def _say_stopped(by: str) -> None:
    if first_process():
        print(f"stopped by {by}", file=sys.stderr)


def leave(code: int) -> NoReturn:
    """Ends the process; one that was stopped doesn't wait for what its threads still compute."""
    if code in (INTERRUPTED, TERMINATED):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def _orderly() -> Iterator[None]:
    """SIGTERM as an exception, and warnings as one line each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.showwarning = _warned  # type: ignore[assignment]
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, _terminated)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: FrameType | None) -> None:
    # A second one must not break off what the first one cleans up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def _warned(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, _refusals()):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return " ".join(str(error).split())


def _nobody_reads() -> int:
    """Nobody reads stdout any more, as in ``| head``: nothing is left to say."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return NOBODY_READS
