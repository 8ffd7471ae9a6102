"""Progress on stderr: a bar on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TextIO, TypeVar

from tqdm import tqdm

from .ranks import shows

_T = TypeVar("_T")
_SECONDS = 60.0


class _Lines:
    """A stream on which what rewrites its line writes a new one instead."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text.strip():
            self._stream.write(f"{text.strip()}\n")

    def flush(self) -> None:
        self._stream.flush()


class Progress(Generic[_T]):
    """How far a stage is; goes through items, or is moved on by `update` in a ``with`` block.

    Args:
        items: what to go through; None where `update` is called.
        title: of the stage.
        shown: False for nothing at all; of several processes only the first shows anything.
        total: number of items, if it is known and they don't say.
    """

    def __init__(
        self,
        items: Iterable[_T] | None = None,
        title: str = "",
        total: int | None = None,
        *,
        shown: bool,
    ) -> None:
        settings: dict[str, Any] = {"disable": True}
        shown = shown and shows()
        if shown and sys.stderr.isatty():
            settings = {}
        elif shown:
            settings = {
                "file": _Lines(sys.stderr),
                "ncols": 100,
                "ascii": True,
                "delay": _SECONDS,
                "mininterval": _SECONDS,
                "maxinterval": _SECONDS,
                "miniters": 1,
            }
        self._bar = tqdm(items, title, total, **settings)

    def __iter__(self) -> Iterator[_T]:
        return iter(self._bar)

    def __enter__(self) -> Progress[_T]:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self) -> None:
        """One more is done."""
        self._bar.update()
