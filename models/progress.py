"""A bar on a terminal, and one line a minute elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_SECONDS = 60.0


class _Lines:
    """A stream on which what rewrites its line writes a new one instead."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text.strip():
            self._stream.write(f"{text.strip()}\n")

    def flush(self) -> None:
        self._stream.flush()


def bar(items: Iterable[Any] | None, title: str, *, shown: bool, **settings: Any) -> Any:
    """A `tqdm` that goes through items, or is moved on by `update`.

    Args:
        items: what to go through; None where `update` is called.
        title: before the bar.
        shown: False for none at all.
        settings: others of `tqdm`, such as total and initial.
    """
    if not shown:
        return tqdm(items, title, disable=True, **settings)
    if sys.stderr.isatty():
        return tqdm(items, title, **settings)
    lines: Any = _Lines(sys.stderr)
    return tqdm(
        items, title, file=lines, ncols=100, ascii=True, delay=_SECONDS, mininterval=_SECONDS,
        maxinterval=_SECONDS, miniters=1, **settings,
    )  # fmt: skip
