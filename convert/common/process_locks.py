"""Locks on open files that the system takes back when a process ends, however it ends."""

from __future__ import annotations

import os
from contextlib import suppress

try:
    import fcntl
except ImportError:  # only POSIX has it
    fcntl = None  # type: ignore[assignment]

# Descriptors of the files that this process holds.
_held: set[int] = set()


def _forget_in_child() -> None:
    """A process that was forked, as those that read data are, must not hold the locks on."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def hold(descriptor: int) -> bool | None:
    """Locks an open file for this process.

    Args:
        descriptor: of the file.

    Returns:
        Whether it is locked now: False if another process holds it, None where there are no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        return None
    _held.add(descriptor)
    return True


def let_go(descriptor: int) -> None:
    """Closes a file, which ends its lock."""
    _held.discard(descriptor)
    os.close(descriptor)
