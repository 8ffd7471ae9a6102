"""The bytes of a file: header, JSON and tensors, and the checksums over them.

The file: a mark of 8 bytes, the version, two lengths, a SHA-256 of everything, a JSON document,
and the tensors as safetensors, which name the JSON's own SHA-256. What is read is held against
the sizes and checksums first, piece by piece, so that a damaged file takes no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO

from ..common.files import shown
from ..errors import StorageError

VERSION = 4
# Of files that hold one network, which programs of before can read.
WHOLE = 3
_MARK = b"FSPIKES\n"
# Mark, version, bytes of JSON, bytes of tensors, SHA-256 of all of it but itself.
_HEADER = struct.Struct("<8sIQQ32s")
_PIECE = 2**22
# Graphs of the largest networks take some megabytes.
_MOST_JSON = 2**28
# What safetensors reads at most.
_MOST_NAMES = 100_000_000
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# How files begin that are taken for networks by mistake, in small letters.
_OTHER_FILES = (
    (b"pk\x03\x04", "a zip archive, as torch.save and numpy.savez write it"),
    (b"\x80", "a pickle"),
    (b"<!doctype html", "a web page, not the file that it offers"),
    (b"<html", "a web page, not the file that it offers"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself"),
)


def packed(graph: bytes, content: bytes, version: int = WHOLE) -> bytes:
    """The header of a file with this JSON and these tensors.

    Raises:
        StorageError: if the JSON is larger than `read` takes.
    """
    if len(graph) > _MOST_JSON:
        raise StorageError(
            f"the graph and the metadata take {len(graph):,} bytes of JSON; a file holds "
            f"{_MOST_JSON:,}: keep large metadata elsewhere"
        )
    digest = _start(version, len(graph), len(content))
    digest.update(graph)
    digest.update(content)
    return _HEADER.pack(_MARK, version, len(graph), len(content), digest.digest())


def read(path: Path) -> tuple[bytes, bytes]:
    """JSON and tensors of a file, checksums verified.

    Raises:
        StorageError: if it can't be read, or isn't what `packed` was told of.
    """
    try:
        found = path.stat()
        # Opening a pipe would wait for whoever writes to it.
        for is_kind, name in _KINDS:
            if is_kind(found.st_mode):
                raise _no_network(path, f"it is {name}")
        with open(path, "rb") as file:
            sizes = _checked(path, file, os.fstat(file.fileno()).st_size)
            file.seek(_HEADER.size)
            graph, content = file.read(sizes[0]), file.read(sizes[1])
    except OSError as error:
        raise StorageError(f"can't read {shown(path)}: {error.strerror}; check the path") from error
    except MemoryError as error:
        raise StorageError(f"{shown(path)} is larger than the memory that is free") from error
    if (len(graph), len(content)) != sizes:
        raise StorageError(f"{shown(path)} was cut off while it was read; load it again")
    return graph, content


def _checked(path: Path, file: BinaryIO, size: int) -> tuple[int, int]:
    """The lengths of JSON and tensors, once they and all checksums were found to be right."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MARK):
        raise _no_network(path, _what(header))
    _, version, json_size, tensor_size, digest = _HEADER.unpack(header)
    if version > VERSION:
        raise StorageError(
            f"{shown(path)} has format version {version}, this fewspikes reads up to {VERSION}; "
            "install a newer fewspikes, or save the network again with this one"
        )
    expected = _HEADER.size + json_size + tensor_size
    if expected != size:
        raise StorageError(
            f"{shown(path)} has {size:,} bytes instead of {expected:,}; it is truncated or "
            "damaged, copy or save it again"
        )
    damaged = StorageError(
        f"{shown(path)} fails its checksum: it was changed after it was written; copy or save it "
        "again"
    )
    # Without these few bytes there are no tensors, however large the file claims to be.
    file.seek(_HEADER.size + json_size)
    start = file.read(9)
    if version < 1 or json_size > _MOST_JSON or len(start) < 9 or start[8:] != b"{":
        raise damaged
    if _names_size(start) > min(tensor_size, _MOST_NAMES):
        raise damaged
    file.seek(_HEADER.size)
    state, own = _start(version, json_size, tensor_size), hashlib.sha256()
    _digest(file, json_size, state, own)
    _digest(file, tensor_size, state)
    if state.digest() != digest:
        raise damaged
    file.seek(_HEADER.size + json_size + 8)
    if _named_digest(file.read(_names_size(start))) != own.hexdigest():
        raise StorageError(
            f"{shown(path)}: its graph is not the one that its tensors were saved with"
        )
    return json_size, tensor_size


def _start(version: int, json_size: int, tensor_size: int) -> Any:
    return hashlib.sha256(_HEADER.pack(_MARK, version, json_size, tensor_size, bytes(32)))


def _digest(file: BinaryIO, size: int, *states: Any) -> None:
    """Adds the next bytes of a file to checksums, in pieces."""
    while size > 0:
        piece = file.read(min(size, _PIECE))
        if not piece:
            return
        size -= len(piece)
        for state in states:
            state.update(piece)


def _names_size(start: bytes) -> int:
    """Bytes of the header of the tensors, which says their names and places."""
    return int(struct.unpack("<Q", start[:8])[0])


def _named_digest(names: bytes) -> Any:
    """The JSON's checksum that the tensors' own header names."""
    try:
        return json.loads(names)["__metadata__"]["json_sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _no_network(path: Path, found: str) -> StorageError:
    return StorageError(
        f"{shown(path)} is not a network that was saved ({found}); give a file that "
        "snn.save(path) wrote"
    )


def _what(header: bytes) -> str:
    if not header:
        return "it is empty"
    for start, name in _OTHER_FILES:
        if header.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(start):
            return f"it is {name}"
    if header.startswith(_MARK):
        return "it ends within its header"
    text = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in header)
    return "it is a text file" if text else "it begins otherwise"
