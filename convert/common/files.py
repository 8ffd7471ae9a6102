"""Paths of files, and writing so that nothing is ever half-written."""

from __future__ import annotations

import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError
from .messages import shortened
from .process_locks import hold, let_go

_TEMPORARY = re.compile(r"\.writing-(locked-)?[0-9a-f]{32}(\..*)?", re.ASCII)
# Of files without a lock: none takes so long to write, an older one's process was killed.
_STALE_SECONDS = 24 * 3600.0


def file_path(path: object, what: str = "path") -> Path:
    """The path that a user gave.

    Args:
        path: a string, bytes or a path object.
        what: what it is called in the message.

    Raises:
        InputError: for anything else, an empty path, or one that no file can have.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise InputError(
            f"{what} must be the path of a file, as a string or a pathlib.Path, found "
            f"{shortened(repr(path), 80)} ({type(path).__name__})"
        )
    text = os.fsdecode(path)
    if not text:
        raise InputError(f"{what} is empty; give the path of a file")
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} {shown(text)} has a character that no file name can have (a lone surrogate); "
            "give another path"
        ) from error
    if b"\0" in encoded:
        raise InputError(
            f"{what} {shown(text)} has a NUL character, which no file name can have; give another "
            "path"
        )
    return Path(text)


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: one line, cut where it is too long."""
    return shortened(os.fspath(path), 200)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside a file, renamed to it when the block ends without an error.

    A link stays, and the file that it leads to is written. A file that exists keeps its
    permissions. Several writers at once leave the whole file of one of them.

    Args:
        path: the file to write.

    Raises:
        InputError: if it can't be written: its folder can't be made or written to, the disk is
            full, or something else than a file that may be written is there.
    """
    asked = file_path(path)
    if os.fsdecode(path).endswith(os.sep):
        raise InputError(
            f"can't write {shown(asked)}{os.sep}: that is a folder's path; give the path of a file"
        )
    target = Path(os.path.realpath(asked))
    try:
        before = _existing(target, asked)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        mode = 0o666 if before is None else stat.S_IMODE(before.st_mode) & 0o777
        temporary, lock = _new_file(target, mode)
    except OSError as error:
        raise _refusal(asked, error) from error
    try:
        yield temporary
        if before is not None:
            _keep_owner_and_mode(temporary, before)
        temporary.replace(target)
    except OSError as error:
        raise _refusal(asked, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        if lock is not None:
            let_go(lock)


def _new_file(target: Path, mode: int) -> tuple[Path, int | None]:
    """An empty file beside another, and the descriptor that locks it; None where nothing does.

    The lock says that its process lives.
    """
    while True:
        made = uuid.uuid4().hex
        temporary = target.parent / f".writing-locked-{made}{_ending(target)}"
        # Made with the permissions that it will have: the system takes the mask off.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        if hold(descriptor) is None:
            os.close(descriptor)
            plain = target.parent / f".writing-{made}{_ending(target)}"
            return temporary.rename(plain), None
        # Before it was locked, another process may have taken it for one that was left.
        if temporary.exists():
            return temporary, descriptor
        let_go(descriptor)


def _existing(target: Path, asked: Path) -> os.stat_result | None:
    """What is at the path now, None for nothing; refuses what must not be replaced."""
    try:
        found = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"can't write {shown(asked)}: it is a folder; give the path of a file")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"can't write {shown(asked)}: it is a device, pipe or socket; give the path of a file"
        )
    # root may write all files, also those that were protected on purpose.
    if not found.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise InputError(
            f"can't write {shown(asked)}: the file is read-only; give another path, or make it "
            "writable"
        )
    return found


def _ending(target: Path) -> str:
    # What writes pictures tells the format from it.
    return target.suffix if len(os.fsencode(target.suffix)) <= 16 else ""


def _keep_owner_and_mode(temporary: Path, before: os.stat_result) -> None:
    now = temporary.stat()
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        with suppress(OSError):
            os.chown(temporary, before.st_uid, before.st_gid)
    temporary.chmod(stat.S_IMODE(before.st_mode))


def _remove_stale(folder: Path) -> None:
    """Removes what processes that were killed left in a folder."""
    for name in os.listdir(folder):
        found = _TEMPORARY.fullmatch(name)
        if found is not None:
            with suppress(OSError):
                if _left(folder / name, locked=found[1] is not None):
                    (folder / name).unlink()


def _left(path: Path, *, locked: bool) -> bool:
    """Whether a temporary file's process is dead."""
    if not locked:
        return time.time() - path.stat().st_mtime > _STALE_SECONDS
    descriptor = os.open(path, os.O_RDONLY)
    held = hold(descriptor)
    let_go(descriptor)
    return held is True


def _refusal(asked: Path, error: OSError) -> InputError:
    reason = shortened(error.strerror or error, 160)
    return InputError(f"can't write {shown(asked)}: {reason}; choose another path or make room")
