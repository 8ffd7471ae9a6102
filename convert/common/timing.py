"""How long a stage takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Keeps the seconds of the block under a name, also where it fails."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - begin
