"""A folder for one process at a time: a lock that a dead process doesn't keep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ResumeError
from .files import shown
from .process_locks import hold, let_go

_NAME = ".lock"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds a folder for this process until the block ends, or the process, however it ends.

    On a disk without locks nothing is held.

    Args:
        folder: that exists.

    Raises:
        ResumeError: if another run holds it.
    """
    path = folder / _NAME
    descriptor = _held(path, folder)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        let_go(descriptor)


def _held(path: Path, folder: Path) -> int:
    """The lock's file, open and locked where there are locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if hold(descriptor) is False:
            other = os.read(descriptor, 100).decode("utf-8", "replace").strip()
            os.close(descriptor)
            raise ResumeError(
                f"another run ({other or 'another process'}) works in {shown(folder)} now; wait "
                "for it, or give another folder"
            )
        # Whoever had the lock before may have removed the file in the meantime.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        let_go(descriptor)
