"""What lies at a path, and writing so that nothing is ever half-written."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import DataError, ModelError

SAFETENSORS = "a safetensors file"
_STARTS = (
    (b"<!doctype html", "a web page, not the file that it offers"),
    (b"<html", "a web page, not the file that it offers"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself"),
    (b"fspikes\n", "a network that snn.save wrote"),
    (b"\x93numpy", "a single array of numpy"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x89hdf", "an HDF5 file"),
)


def what_is(path: Path) -> str | None:
    """What a path names that is neither a zip archive nor a pickle, in words; None for those.

    Pipes and devices aren't opened: that might wait for ever.

    Raises:
        OSError: if the path can't be looked at.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return "a folder"
    if not stat.S_ISREG(mode):
        return "a pipe, a socket or a device"
    with open(path, "rb") as file:
        start = file.read(256)
    if not start:
        return "an empty file"
    # The size of a header, and the header's JSON.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8:
        return SAFETENSORS
    if start.startswith((b"PK", b"\x80")):
        return None
    plain = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, name in _STARTS:
        if plain.startswith(beginning):
            return name
    if all(32 <= byte < 127 or byte in b"\t\r\n\f" for byte in start):
        return "a text file"
    return SAFETENSORS if start[8:9] == b"{" else "a file of another kind"


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: one line, its middle left out where it is too long."""
    text = ascii(str(path))[1:-1] if not str(path).isprintable() else str(path)
    return text if len(text) <= 200 else f"{text[:120]} ... {text[-60:]}"


@contextmanager
def whole_file(
    path: str | os.PathLike[str], error: type[ModelError | DataError] = ModelError
) -> Iterator[Path]:
    """Yields a temporary path beside a file, renamed to it when the block ends without an error.

    A link stays, and the file that it leads to is written. A file that exists keeps its
    permissions.

    Args:
        path: the file to write.
        error: what is raised if it can't be written.
    """
    target = Path(os.path.realpath(path))
    # torch doesn't write to a name without an ending.
    temporary = target.parent / f".writing-{uuid.uuid4().hex}{target.suffix[:16] or '.new'}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(target.stat().st_mode) & 0o777 if target.exists() else 0o666
        # Made with the permissions that it will have: the system takes the mask off.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield temporary
        if target.exists():
            temporary.chmod(mode)
        temporary.replace(target)
    except OSError as reason:
        raise error(
            f"can't write {shown(path)}: {reason.strerror or reason}; choose another path or make "
            "room"
        ) from reason
    finally:
        with suppress(OSError):  # there is none
            temporary.unlink()
