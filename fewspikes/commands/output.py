"""Where a command writes: looked at before its work, and kept for one run at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # only POSIX has it
    fcntl = None  # type: ignore[assignment]

_LOCK = ".running"
# The locks that this process holds.
_held: set[int] = set()
_LEAST_FREE = 50_000_000


def _forget_in_child() -> None:
    """A process that was forked, as those that read data are, must not hold the locks on."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class OutputError(Exception):
    """A place can't be written to: the message names it, what was found, the remedy."""


def check_file(path: str | os.PathLike[str], *, least_free: int = 1_000_000) -> None:
    """Refuses the path of a file that couldn't be written.

    Args:
        path: the file; it and its folder need not exist.
        least_free: bytes that the disk must have.

    Raises:
        OutputError: naming what is in the way.
    """
    if not os.fspath(path):
        raise OutputError("the path of a file to write is empty")
    target = Path(os.path.realpath(path))
    try:
        there = target.exists()
        if there and not target.is_file():
            raise OutputError(f"can't write {path}: it is a folder or a device; give a file")
        if there and not (target.stat().st_mode & 0o222 and os.access(target, os.W_OK)):
            raise OutputError(f"can't write {path}: the file is read-only; give another")
        _check_folder(_nearest(target.parent), path, least_free)
    except OSError as error:
        raise OutputError(f"can't write {path}: {error.strerror}; choose another") from error


def check_room(path: Path, needed: int) -> None:
    """Refuses a folder whose disk has too little room.

    Args:
        path: the folder.
        needed: bytes.

    Raises:
        OutputError: naming what is free and what is needed.
    """
    _check_folder(_nearest(path), path, max(needed, _LEAST_FREE))


@contextmanager
def output_folder(path: Path, names: Sequence[str] = ()) -> Iterator[None]:
    """Makes a folder and keeps it for this run; what stayed empty is removed again.

    Args:
        path: the folder.
        names: of the files that will be written to it.

    Raises:
        OutputError: if it can't be written to, or another run writes to it now.
    """
    if not os.fspath(path):
        raise OutputError("the path of the output folder is empty")
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        if path.exists() and not path.is_dir():
            raise OutputError(f"can't write to {path}: it is a file; give a folder")
        _check_folder(_nearest(path), path, _LEAST_FREE)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"can't write to {path}: {error.strerror}; choose another folder"
        ) from error
    try:
        with _only_run(path):
            for name in names:
                check_file(path / name)
            yield
    finally:
        for folder in made:
            with suppress(OSError):  # it holds results
                folder.rmdir()


def _nearest(folder: Path) -> Path:
    """The folder, or what exists of the way to it."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _check_folder(folder: Path, asked: str | os.PathLike[str], least_free: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < least_free:
        raise OutputError(
            f"can't write {asked}: {free / 1e6:.0f} MB are free there, and {least_free / 1e6:.0f} "
            "MB are needed; make room or choose another disk"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(65536))
        file.flush()


@contextmanager
def _only_run(folder: Path) -> Iterator[None]:
    """Holds a lock that the system takes back when the process ends, however it ends."""
    if fcntl is None:
        yield
        return
    path = folder / _LOCK
    while True:
        file = open(path, "a+")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = file.read(100).strip() or "another process"
            file.close()
            raise OutputError(
                f"another run ({other}) writes to {folder} now; wait for it, or choose another "
                "folder"
            ) from None
        except OSError:  # a disk without locks
            file.close()
            yield
            return
        # Whoever had the lock before may have removed the file in the meantime.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
    _held.add(file.fileno())
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        _held.discard(file.fileno())
        file.close()
