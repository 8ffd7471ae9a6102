"""How results leave a command: for the reader, or as JSON alone on stdout."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path


@contextmanager
def json_alone(asked: bool) -> Iterator[Callable[[object], None]]:
    """Inside, what is printed for the reader goes to stderr, if JSON is asked for.

    Yields what takes the document, which is printed on stdout at the end; it does nothing if JSON
    isn't asked for.
    """
    if not asked:
        yield lambda document: None
        return
    documents: list[object] = []
    with redirect_stdout(sys.stderr):
        yield documents.append
    for document in documents:
        print(json.dumps(document, indent=1, allow_nan=False))


def as_typed() -> str:
    """The command line, as it can be typed again on another machine."""
    program = Path(sys.argv[0]).name
    first = ["fewspikes"] if program in ("fewspikes", "__main__.py") else [sys.argv[0]]
    return shlex.join([*first, *sys.argv[1:]])
