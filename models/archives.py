"""Images in tars: of class folders, and WebDataset-style shards with a label beside each image.

An archive isn't unpacked. One pass over it finds the images and reads the labels; an image is read
when it is wanted.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from .decoding import CorruptImageError
from .errors import DataError
from .files import shown
from .image_files import BY_FOLDER, ImageFiles, Place, is_image, labelled_by
from .progress import bar

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
# The file of a shard's sample that holds its class number, and the most bytes of one.
_LABEL, _MOST = ".cls", 64
_ENDINGS = tuple(ending.removeprefix(".") for ending in IMG_EXTENSIONS)
_TROUBLE = (tarfile.TarError, OSError, EOFError, ValueError)


class FrontToBack:
    """A compressed archive, which can be read in its own order only.

    Members that are asked for in that order cost one pass. Every process has a pass of its own.

    Args:
        path: of the archive.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._process = self._next = 0
        self._archive: tarfile.TarFile | None = None

    def __reduce__(self) -> tuple[type[FrontToBack], tuple[str]]:
        return FrontToBack, (self.path,)

    def member(self, number: int, name: str) -> bytes:
        """The content of a member.

        Args:
            number: of the member, counted from 0.
            name: of the member.

        Raises:
            CorruptImageError: if it can't be read.
        """
        try:
            found = self._advanced(number)
            opened = self._archive.extractfile(found) if self._archive is not None else None
            if opened is None or str(PurePosixPath(found.name)) != name:
                raise tarfile.ReadError("it has changed")
            return opened.read()
        except _TROUBLE as error:
            self._archive = None
            raise CorruptImageError(name, f"can't be read from {self.path}: {error}") from error

    def _advanced(self, number: int) -> tarfile.TarInfo:
        """A member, the archive having been read up to it; from its start if it lies behind."""
        if self._archive is None or self._process != os.getpid() or number < self._next:
            self._archive = tarfile.open(self.path, "r|*")  # noqa: SIM115
            self._process, self._next = os.getpid(), 0
        while True:
            found = _next(self._archive)
            if found is None:
                raise tarfile.ReadError("it ends before")
            self._next += 1
            if self._next > number:
                return found


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member; those before are forgotten, which would all be kept."""
    found = archive.next()
    archive.members = []  # type: ignore[attr-defined]
    return found


@dataclass(frozen=True)
class _Label:
    """A class number in a shard, as its file holds it."""

    name: str
    content: bytes


def expanded(source: str) -> list[Path] | None:
    """The files that a pattern with braces or wildcards names; None where a source is no pattern.

    Raises:
        DataError: for a pattern without files, or a file that is missing.
    """
    pattern = has_magic(source) or "{" in source or "::" in source
    if not pattern or os.path.exists(source):
        return None
    try:
        named = _webdataset().shardlists.expand_urls(source)
    except (AssertionError, ValueError) as error:
        raise DataError(f"{shown(source)} is no pattern of files ({error}); check it") from error
    paths: list[Path] = []
    for name in named:
        if ":" in name.partition("/")[0]:
            raise DataError(f"{shown(name)} is no local file; fetch it first, and give its path")
        # A name of its own is taken as it is.
        matched = not os.path.exists(name) and has_magic(name)
        found = sorted(glob(name, recursive=True)) if matched else [name]
        if not found or not all(map(os.path.isfile, found)):
            raise DataError(
                f"no data at {shown(source)}: there is no file {shown(name)}; check the pattern"
            )
        paths += map(Path, found)
    return paths


def open_tars(
    paths: Sequence[Path],
    source: str,
    inside: str = "",
    labels: str = BY_FOLDER,
    *,
    progress: bool = False,
) -> ImageFiles:
    """The images of one or several tars.

    Args:
        paths: of the archives: of class folders, as ``CLASS/IMAGE`` or ``SET/CLASS/IMAGE``, or
            shards whose samples have their class number in a file ``.cls``.
        source: that named them, for messages.
        inside: the folder in them that holds the class folders; found if empty.
        labels: see `image_files.labelled_by`; shards have labels of their own.
        progress: shows a bar on stderr while the archives are looked through.

    Raises:
        DataError: if one can't be read, or has no class folders, several sets of them, or an image
            without a label.
    """
    found: list[Place | _Label] = []
    total = sum(os.path.getsize(path) for path in paths)
    done = bar(None, "index", shown=progress, total=total, unit="B", unit_scale=True)
    starts = []
    with done:
        for path in paths:
            starts.append(len(found))
            found += _members(path, done)
    if any(isinstance(each, _Label) for each in found):
        if labels != BY_FOLDER:
            raise DataError(
                f"{shown(source)} has labels of its own; --labels is for class folders of images"
            )
        return _of_shards(found, starts, paths, source)
    places = [each for each in found if isinstance(each, Place)]
    return _of_class_folders(places, source, inside, labels)


def _members(path: Path, done: tqdm[Any]) -> Iterator[Place | _Label]:
    """The images and the labels of an archive, in its own order."""
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            compressed = file.read(6).startswith(_COMPRESSED)
            file.seek(0)
            # Members of a compressed archive can only be read one after the other.
            with tarfile.open(fileobj=file, mode="r|*" if compressed else "r:") as archive:
                whole = FrontToBack(str(path)) if compressed else None
                number, before = -1, 0
                while (member := _next(archive)) is not None:
                    number += 1
                    at = min(file.tell(), size)
                    done.update(max(at - before, 0))
                    before = max(at, before)
                    inside = PurePosixPath(member.name)
                    hidden = any(p.startswith(".") and p != ".." for p in inside.parts)
                    if not member.isreg() or hidden:
                        continue
                    if not compressed and member.offset_data + member.size > size:
                        raise tarfile.ReadError("unexpected end of data")
                    if inside.name.lower().endswith(_LABEL) and member.size <= _MOST:
                        opened = archive.extractfile(member)
                        assert opened is not None
                        yield _Label(str(inside), opened.read())
                    elif is_image(inside.name):
                        yield Place(
                            str(inside), inside.parent.name, str(path), member.offset_data,
                            member.size, number, whole,
                        )  # fmt: skip
                done.update(size - before)
    except _TROUBLE as error:
        raise DataError(
            f"{shown(path)} can't be read as a tar archive ({str(error)[:120]}); fetch or make it "
            "again"
        ) from error


def _of_class_folders(places: list[Place], source: str, inside: str, labels: str) -> ImageFiles:
    """Images that lie in folders of their classes."""
    above: dict[str, int] = defaultdict(int)
    for place in places:
        above[str(PurePosixPath(place.name).parent.parent)] += 1
    named = f"{source}:{inside}" if inside else source
    if inside:
        wanted = str(PurePosixPath(inside))
        places = [p for p in places if str(PurePosixPath(p.name).parent.parent) == wanted]
    if not places or any(place.folder == "" for place in places):
        raise DataError(
            f"{shown(named)} holds no images in class folders"
            f"{' (it has ' + ', '.join(list(above)[:4]) + ')' if above and inside else ''}; they "
            "must lie in it as CLASS/IMAGE or SET/CLASS/IMAGE, or have labels beside them: "
            "NAME.jpg and NAME.cls"
        )
    if not inside and len(above) > 1:
        listed = ", ".join(f"{source}:{folder}" for folder in list(above)[:4])
        raise DataError(
            f"{shown(source)} holds several sets of class folders; give one of them: {listed}"
        )
    places.sort(key=lambda place: (place.folder, place.name))
    return labelled_by(places, labels, named)


def _of_shards(
    found: Sequence[Place | _Label], starts: Sequence[int], paths: Sequence[Path], source: str
) -> ImageFiles:
    """Images with the class numbers beside them, shard by shard in their own order."""
    places: list[Place] = []
    y: list[int] = []
    ends = [*starts[1:], len(found)]
    for path, start, end in zip(paths, starts, ends, strict=True):
        for sample in _samples(found[start:end], path):
            place, label = _image_and_label(sample, path)
            places.append(place)
            y.append(label)
    return ImageFiles(tuple(places), np.asarray(y, np.int64), source)


def _samples(found: Sequence[Place | _Label], path: Path) -> Iterator[dict[str, Any]]:
    """A shard's files in groups of one name, as the library puts them together."""
    files = (
        {"fname": each.name, "data": each, "__url__": str(path)}
        for each in found
        if re.match(r"__[^/]*__($|/)", each.name) is None
    )
    try:
        yield from _webdataset().tariterators.group_by_keys(files)
    except ValueError as error:
        raise DataError(
            f"{shown(path)} is no shard ({str(error.args[0])[:120]}); write it again"
        ) from error


def _image_and_label(sample: dict[str, Any], path: Path) -> tuple[Place, int]:
    key, label = sample["__key__"], sample.get(_LABEL.removeprefix("."))
    images = [sample[ending] for ending in _ENDINGS if ending in sample]
    what = f"{shown(path)}: the sample {shown(key)}"
    if len(images) != 1 or not isinstance(images[0], Place):
        raise DataError(f"{what} has {len(images)} images beside its label; it must have one")
    if not isinstance(label, _Label):
        raise DataError(f"{what} has no label; it must have a file {key}.cls with a class number")
    try:
        return images[0], int(label.content)
    except ValueError:
        raise DataError(
            f"{what} has the label {label.content[:20]!r}; it must be a class number, such as 7"
        ) from None


def _webdataset() -> ModuleType:
    try:
        import webdataset
        import webdataset.shardlists
        import webdataset.tariterators
    except ImportError as error:
        raise DataError(
            "shards and patterns of files need webdataset; run: pip install 'fewspikes[shards]'"
        ) from error
    return webdataset
