"""How every command ends: errors of use, Ctrl-C and SIGTERM in one line, and the exit code.

An error of use ends with 2, Ctrl-C with 130 and SIGTERM with 143; temporary files are removed
before.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import NoReturn

from .output import OutputError, check_file, output_folder

# Exit codes, beside 0 and, for an unexpected error, 1.
WRONG_USE, INTERRUPTED, TERMINATED, NOBODY_READS = 2, 130, 143, 141
_MOST_SECONDS, _SOON = 10.0, 0.05


EVERYWHERE = f"""\
  0    done
  1    an unexpected error, with a traceback
  {WRONG_USE}    wrong use, or what was given can't be used: one line says what
  {INTERRUPTED}  stopped by Ctrl-C
  {NOBODY_READS}  nobody reads the results any more
  {TERMINATED}  stopped by SIGTERM
"""


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
        ("fewspikes._models", ["ModelError", "DataError"]),
    ):
        kinds = [getattr(sys.modules.get(package), name, None) for name in names]
        # A user's own package of that name may call anything so.
        found += [k for k in kinds if isinstance(k, type) and issubclass(k, Exception)]
    return tuple(found)


class Terminated(BaseException):
    """SIGTERM came."""


def ended(
    run: Callable[[], int | None],
    *,
    traceback: bool = False,
    files: Sequence[str | os.PathLike[str] | None] = (),
    writes: Callable[[], tuple[Path, Sequence[str]]] | None = None,
    kept: Callable[[], str] | None = None,
) -> int:
    """Looks at where results go, runs a command, and returns its exit code.

    Of the processes that torchrun started only the first writes and prints, but for errors.

    Args:
        run: the command; may return an exit code.
        traceback: lets errors of use through.
        files: that will be written; None and ``-`` for none.
        writes: a folder that is this run's alone, and names of the files that it will hold.
        kept: says what a run that is stopped leaves.
    """
    # What a download's library says of its failures is in our error, which is one line.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        with _orderly(), ExitStack() as stack:
            for file in files:
                if file is not None and os.fspath(file) != "-":
                    check_file(file)
            if not first_process():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            elif writes is not None:
                stack.enter_context(output_folder(*writes()))
            return run() or 0
    except Exception as error:
        if traceback or not isinstance(error, (*_refusals(), OSError)):
            raise
        if isinstance(error, BrokenPipeError):
            return _nobody_reads()
        if first_process() or type(error).__name__ != "RankFailed":
            print(f"{_whose()}: {_one_line(error)}", file=sys.stderr)
        return error.code if isinstance(error, Refusal) else WRONG_USE
    except KeyboardInterrupt:
        return _stopped("Ctrl-C", INTERRUPTED, kept() if kept else "")
    except Terminated:
        return _stopped("SIGTERM", TERMINATED, kept() if kept else "")


def _stopped(by: str, code: int, kept: str) -> int:
    if first_process():
        print(f"stopped by {by}{kept and '; '}{kept}", file=sys.stderr)
    return code


def first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes torchrun started; 1 without it."""
    said = os.environ.get("WORLD_SIZE", "")
    return int(said) if said.isdecimal() else 1


def _whose() -> str:
    return "error" if first_process() else f"error in process {os.environ['RANK']}"


def leave(code: int) -> NoReturn:
    """Ends the process; one that was stopped doesn't wait for what its threads still compute."""
    # All is written and said: a signal from now on must not make another end of it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if code in (INTERRUPTED, TERMINATED):
        # Whatever the end of a library waits for, it isn't waited for long.
        late = threading.Timer(_MOST_SECONDS, os._exit, [code])
        late.daemon = True
        late.start()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # All is said: threads whose files are removed below have nothing to add.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        # Ends processes that read data, and removes temporary files of libraries.
        atexit._run_exitfuncs()
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
        before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _terminated)}
        # A shell lets what it runs in the background ignore this one.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupted)
        try:
            with _never_lost():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _never_lost() -> Iterator[None]:
    """Raises what stops the run once more where Python had to drop it.

    That is in the end of an object, as that of a DataLoader, out of which nothing can be raised.
    """
    before, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)

    def dropped(found: sys.UnraisableHookArgs) -> None:
        kind = found.exc_type
        if not issubclass(kind, (KeyboardInterrupt, Terminated)):
            before(found)
            return

        def again(number: int, frame: FrameType | None) -> None:
            raise kind

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, _SOON)

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        sys.unraisablehook = before


def _terminated(number: int, frame: FrameType | None) -> None:
    # A second one must not break off what the first one cleans up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def _interrupted(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


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
