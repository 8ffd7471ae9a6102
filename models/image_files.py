"""Images in files, with labels: those of class folders, read when they are wanted."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torchvision.datasets.folder import IMG_EXTENSIONS

from .decoding import CorruptImageError, decoded
from .errors import DataError
from .files import shown
from .labelled import Labelled

BY_FOLDER, BY_NAME = "folder", "name"


class Archive(Protocol):
    """A file whose members can be read in its own order only."""

    def member(self, number: int, name: str) -> bytes:
        """The content of a member by its number."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of an image lie.

    Args:
        name: for messages: a path, or one inside an archive.
        folder: the class folder that it lies in.
        path: of the file to read.
        start, size: of the image in it; the whole file if None.
        number: of the image among the members of `archive`.
        archive: that must be read in its own order; None for a file in which one can jump.
    """

    name: str
    folder: str
    path: str
    start: int = 0
    size: int | None = None
    number: int = 0
    archive: Archive | None = None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            CorruptImageError: if it can't be read.
        """
        if self.archive is not None:
            return self.archive.member(self.number, self.name)
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                return file.read() if self.size is None else file.read(self.size)
        except OSError as error:
            raise CorruptImageError(self.name, f"can't be read: {error.strerror}") from error

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return PurePosixPath(self.name).stem


@dataclass(frozen=True, eq=False)
class ImageFiles(Labelled):
    """Images in files, with labels.

    Args:
        places: where each image lies.
        y: class numbers, int64 ``[N]``.
        source: where they came from, for messages.
        classes: names of the classes by number; none where they aren't all known.
    """

    places: tuple[Place, ...]
    y: npt.NDArray[np.int64]
    source: str
    classes: tuple[str, ...] = ()

    def identities(self) -> Iterator[Hashable]:
        """The file of each image on its disk, and the place in it."""
        path, file = "", _on_disk("")
        for place in self.places:
            if place.path != path:  # images of an archive come one behind the other
                path, file = place.path, _on_disk(place.path)
            yield file, place.start, place.number

    def _chosen(self, which: slice | npt.NDArray[np.int64]) -> ImageFiles:
        numbers = np.arange(len(self))[which]
        if any(self.places[i].archive is not None for i in numbers):
            # In the order in which they can be read in one pass.
            numbers = np.asarray(sorted(numbers, key=lambda i: self._in_order(self.places[i])))
        return replace(self, places=tuple(self.places[i] for i in numbers), y=self.y[numbers])

    @staticmethod
    def _in_order(place: Place) -> tuple[str, int]:
        return place.path, place.number

    def image(self, index: int, *, gray: bool) -> npt.NDArray[np.uint8]:
        """One image ``[H, W, C]`` with 3 channels, or 1 where gray is asked for.

        Raises:
            CorruptImageError: if it can't be read or decoded.
        """
        place = self.places[index]
        return decoded(place.read(), place.name, gray=gray)


def _on_disk(path: str) -> Hashable:
    """What tells a file from all others, whatever links lead to it."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image that isn't hidden."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def open_folder(path: Path, labels: str = BY_FOLDER) -> ImageFiles:
    """The images of a folder of class folders.

    Files that are no images, and what is hidden (its name begins with a dot), are passed over.

    Args:
        path: the folder; what lies deeper in a class folder belongs to the class.
        labels: see `labelled_by`.

    Raises:
        DataError: for a folder without images, or one whose labels can't be told.
    """
    places: list[Place] = []
    empty: list[str] = []
    try:
        entries = [e for e in os.scandir(path) if not e.name.startswith(".")]
        for name in sorted(e.name for e in entries if e.is_dir()):
            before = len(places)
            places += [Place(file, name, file) for file in _images_below(path / name)]
            empty += [name] if len(places) == before else []
    except OSError as error:
        where = shown(error.filename or path)
        raise DataError(f"{where} can't be read: {error.strerror}; look at its rights") from error
    if not places:
        beside = sum(is_image(entry.name) for entry in entries)
        tars = any(entry.name.endswith(".tar") for entry in entries)
        found = f"{beside} images lie in it without one" if beside else "it holds no images"
        raise DataError(
            f"{shown(path)} is not a folder of class folders with images ({found}); put the "
            "images of each class into a folder of its own"
            + (f", or give its tars as '{path}/*.tar'" if tars else "")
        )
    if empty and labels == BY_FOLDER:
        raise DataError(
            f"{shown(path)}: {len(empty)} class folders hold no image ({', '.join(empty[:4])}), "
            "and each counts as a class; remove them, or give --labels"
        )
    return labelled_by(places, labels, str(path))


def _refused(error: OSError) -> None:
    """Raises what `os.walk` would pass over: images of a folder that can't be read aren't none."""
    raise error


def _images_below(folder: Path) -> Iterator[str]:
    """Paths of the images in a folder and in those inside it, sorted folder by folder."""
    for root, _, files in sorted(os.walk(folder, onerror=_refused, followlinks=True)):
        inside = PurePosixPath(root).relative_to(folder).parts
        if not any(part.startswith(".") for part in inside):
            yield from (os.path.join(root, name) for name in sorted(files) if is_image(name))


def labelled_by(places: Sequence[Place], labels: str, source: str) -> ImageFiles:
    """Images with the class numbers that their places tell.

    Args:
        places: of the images.
        labels: ``"folder"``: the class folders in alphabetical order are 0, 1, 2, ...; ``"name"``:
            the name of each file is the number of its class; or a file that lists the class
            folders in the model's order, a line each. What follows a folder's name behind a space
            is left out where only the first word names a folder.
        source: where they came from, for messages.

    Raises:
        DataError: for names that aren't class numbers, or folders that the file doesn't list.
    """
    folders = sorted({place.folder for place in places})
    if labels == BY_FOLDER:
        names, numbers = tuple(folders), {folder: i for i, folder in enumerate(folders)}
    elif labels == BY_NAME:
        names, numbers = (), _numbers_in_names(places, source)
    else:
        names = _listed(labels, folders)
        numbers = {name: i for i, name in enumerate(names)}
        unknown = [folder for folder in folders if folder not in numbers]
        if unknown:
            raise DataError(
                f"{source}: {len(unknown)} class folders are not in {shown(labels)} "
                f"({', '.join(unknown[:4])}); list every class folder, a line each"
            )
    y = np.asarray([numbers[place.folder] for place in places], np.int64)
    return ImageFiles(tuple(places), y, source, names)


def _numbers_in_names(places: Sequence[Place], source: str) -> dict[str, int]:
    """The one number that the files of each class folder are called by."""
    numbers: dict[str, int] = {}
    for place in places:
        number = int(place.stem) if place.stem.isdecimal() else None
        if number is None or numbers.setdefault(place.folder, number) != number:
            what = "is no number" if number is None else "is another number than beside it"
            raise DataError(
                f"{source}: the name of {shown(place.name)} {what}; with --labels name every "
                "file's name must be the number of its class"
            )
    twice = len(numbers) - len(set(numbers.values()))
    if twice:
        raise DataError(
            f"{source}: {twice} class folders have the same number in their files' names; with "
            "--labels name every file's name must be the number of its class"
        )
    return numbers


def _listed(file: str, folders: Sequence[str]) -> tuple[str, ...]:
    """Names of class folders from a file, in its order."""
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"no class folders at {shown(file)}: it can't be read as text; --labels takes folder, "
            "name, or a text file that lists the class folders, a line each"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not set(folders) <= set(names):
        names = [name.split()[0] for name in names]
    if len(set(names)) != len(names) or not names:
        raise DataError(
            f"{shown(file)} lists {len(names)} class folders, {len(set(names))} of them different; "
            "list every one once"
        )
    return tuple(names)
