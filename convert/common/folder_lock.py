"""A folder for one process at a time: a lock that a dead process doesn't keep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ResumeError
from .files import shown

try:
    import fcntl
except ImportError:  # only POSIX has it
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
# Descriptors of the locks that this process holds.
_held: set[int] = set()


def _forget_in_child() -> None:
    """A process that was forked, as those that read data are, must not hold the lock on."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds a folder for this process until the block ends, or the process, however it ends.

    Args:
        folder: that exists.

    Raises:
        ResumeError: if another one holds it.
    """
    path = folder / LOCK
    descriptor = None if fcntl is None else _locked(path, folder)
    if descriptor is None:
        yield
        return
    _held.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        _held.discard(descriptor)
        os.close(descriptor)


def _locked(path: Path, folder: Path) -> int | None:
    """The lock's file, locked; None on a disk without locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(descriptor, 100).decode("utf-8", "replace").strip()
            os.close(descriptor)
            raise ResumeError(
                f"another run ({other or 'another process'}) works in {shown(folder)} now; wait "
                "for it, or give another folder"
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        # Whoever had the lock before may have removed the file in the meantime.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)
