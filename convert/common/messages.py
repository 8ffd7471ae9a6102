"""What is said of values and of errors of other libraries: short, with the user's own line."""

from __future__ import annotations

import linecache
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

_PACKAGE = str(Path(__file__).parents[1])
# Found, not imported: who only reads a file needs no torch.
_FOUND = find_spec("torch")
_TORCH = str(Path(_FOUND.origin).parent) if _FOUND is not None and _FOUND.origin else "torch"
_PATHS = sysconfig.get_paths()
_LIBRARY = tuple({_PATHS["stdlib"], _PATHS["platstdlib"]})
_SITES = tuple({_PATHS["purelib"], _PATHS["platlib"]})
# Longest text that is shown of a value.
_MOST = 300
# Where torch goes on to what it can't know.
_ADVICE = re.compile(r"\n\s*\n|Suggested fixes|Potential framework code|User Stack|If you're using")
# Longest reason and longest source line that a message quotes.
_REASON, _SOURCE = 240, 100


def first_line(error: BaseException) -> str:
    """Its class and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def shortened(text: object, most: int = _MOST) -> str:
    """A text as one line that can be printed, its middle left out where it is too long.

    Args:
        text: what to show.
        most: characters that are kept.
    """
    whole = str(text)
    # Of a text of millions of characters only the ends are looked at.
    if len(whole) > 4 * most:
        whole = f"{whole[: 2 * most]}{whole[-2 * most :]}"
        cut = True
    else:
        cut = False
    line = " ".join(whole.encode("utf-8", "backslashreplace").decode("utf-8").split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) <= most and not cut:
        return line
    end = most // 3
    return f"{line[: most - end]} ... {line[-end:]}"


def reason(error: BaseException) -> str:
    """Its class and, in one line, what it says before it goes on to advice."""
    text = _ADVICE.split(str(error))[0]
    text = re.sub(r" ?For more information, run with TORCH_LOGS=\S+", "", text)
    text = re.sub(r"\(unhinted: [^\n]*?\)\.?|\(Size-like symbols: [^)]*\)", "", text)
    text = re.sub(r"L\['(\w+)'\]", r"\1", text)
    text = " ".join(text.split())
    if len(text) > _REASON:
        text = text[:_REASON].rstrip() + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def users_line(error: BaseException) -> str | None:
    """The innermost line of the user's code on the way to an error: ``net.py:12: if x > 0:``.

    None where there is none: all of it lies in torch, in this package or in Python's own library.
    """
    seen: set[int] = set()
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        chain.append(current)
        current = current.__cause__ or current.__context__
    for link in reversed(chain):
        frames = [(f.filename, f.lineno or 0) for f in traceback.extract_tb(link.__traceback__)]
        for filename, number in reversed(frames):
            if is_users(filename):
                return quoted(filename, number)
    return None


def calling_line(frame: FrameType | None = None) -> tuple[str, int] | None:
    """File and number of the innermost line of the user's code that runs in a frame of torch's.

    None where this package called torch itself.
    """
    for found in _outwards(frame or sys._getframe(1)):
        filename = found.f_code.co_filename
        if filename.startswith(_PACKAGE):
            return None  # further out is who asked this package for something
        if is_users(filename):
            return filename, found.f_lineno
    return None


def quoted(filename: str, number: int) -> str:
    """A line of source as messages show it."""
    source = linecache.getline(filename, number).strip()
    if len(source) > _SOURCE:
        source = source[:_SOURCE] + " ..."
    return f"{Path(filename).name}:{number}" + (f": {source}" if source else "")


def is_users(filename: str) -> bool:
    """Whether a file is neither torch's, nor this package's, nor of Python's own library."""
    if filename.startswith((_TORCH, _PACKAGE)) or filename.startswith("<frozen"):
        return False
    if "eval_with_key" in filename:
        return False
    if filename.startswith("<") and not linecache.getlines(filename):
        return filename == "<stdin>"
    return filename.startswith(_SITES) or not filename.startswith(_LIBRARY)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
