"""Images in a folder of class folders or a tar of them, read and decoded when they are wanted."""

from __future__ import annotations

import io
import os
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import datasets
from torchvision.io import ImageReadMode, decode_image

from .errors import DataError
from .files import shown
from .labelled import Labelled

BY_FOLDER, BY_NAME = "folder", "name"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")


@dataclass(frozen=True)
class Place:
    """Where the bytes of an image lie.

    Args:
        name: for messages: a path, or one inside an archive.
        folder: the class folder that it lies in.
        path: of the file to read.
        start, size: of the image in it; the whole file if None.
        content: the bytes themselves, where the archive is compressed.
    """

    name: str
    folder: str
    path: str
    start: int = 0
    size: int | None = None
    content: bytes | None = None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            DataError: if it can't be read.
        """
        if self.content is not None:
            return self.content
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                return file.read() if self.size is None else file.read(self.size)
        except OSError as error:
            raise DataError(f"{shown(self.name)} can't be read: {error.strerror}") from error

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

    def _chosen(self, which: slice | npt.NDArray[np.int64]) -> ImageFiles:
        numbers = np.arange(len(self))[which]
        return replace(self, places=tuple(self.places[i] for i in numbers), y=self.y[which])

    def image(self, index: int, *, gray: bool) -> npt.NDArray[np.uint8]:
        """One image ``[H, W, C]`` with 3 channels, or 1 where gray is asked for.

        Raises:
            DataError: if it can't be decoded.
        """
        place = self.places[index]
        content = place.read()
        mode = ImageReadMode.GRAY if gray else ImageReadMode.RGB
        try:
            found = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode)
            if found.dtype == torch.uint8:
                return found.permute(1, 2, 0).numpy()
        except (RuntimeError, ValueError):
            pass  # Pillow knows more kinds
        try:
            picture = Image.open(io.BytesIO(content)).convert("L" if gray else "RGB")
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{shown(place.name)} can't be decoded as an image ({str(error)[:120]}); replace "
                "or remove it"
            ) from error
        array = np.asarray(picture)
        return array[..., None] if gray else array


def open_folder(path: Path, labels: str = BY_FOLDER) -> ImageFiles:
    """The images of a folder of class folders.

    Args:
        path: the folder; what lies deeper in a class folder belongs to the class.
        labels: see `labelled_by`.

    Raises:
        DataError: for a folder without images, or one whose labels can't be told.
    """
    try:
        found = datasets.ImageFolder(str(path))
    except (FileNotFoundError, OSError) as error:
        raise DataError(
            f"{shown(path)} is not a folder of class folders with images ({str(error)[:160]}); put "
            "the images of each class into a folder of its own"
        ) from error
    places = [Place(file, found.classes[label], file) for file, label in found.samples]
    return labelled_by(places, labels, str(path))


def open_tar(path: Path, inside: str = "", labels: str = BY_FOLDER) -> ImageFiles:
    """The images of an archive in which each lies in a folder of its class.

    The archive isn't unpacked. One that is compressed is kept in memory, its images encoded.

    Args:
        path: of the archive.
        inside: the folder in it that holds the class folders; found if empty.
        labels: see `labelled_by`.

    Raises:
        DataError: if it can't be read, or has no class folders, or several sets of them.
    """
    source = f"{path}:{inside}" if inside else str(path)
    places = _in_tar(path)
    above: dict[str, int] = defaultdict(int)
    for place in places:
        above[str(PurePosixPath(place.name).parent.parent)] += 1
    if inside:
        wanted = str(PurePosixPath(inside))
        places = [p for p in places if str(PurePosixPath(p.name).parent.parent) == wanted]
    if not places or any(place.folder == "" for place in places):
        raise DataError(
            f"{shown(source)} holds no images in class folders"
            f"{' (it has ' + ', '.join(list(above)[:4]) + ')' if above and inside else ''}; they "
            "must lie in it as CLASS/IMAGE or SET/CLASS/IMAGE"
        )
    if not inside and len(above) > 1:
        listed = ", ".join(f"{path}:{folder}" for folder in list(above)[:4])
        raise DataError(
            f"{shown(path)} holds several sets of class folders; give one of them: {listed}"
        )
    places.sort(key=lambda place: (place.folder, place.name))
    return labelled_by(places, labels, source)


def _in_tar(path: Path) -> list[Place]:
    """The images of an archive, in its own order."""
    found, size = [], os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            compressed = file.read(6).startswith(_COMPRESSED)
        # Members of a compressed archive can only be read one after the other.
        with tarfile.open(path, "r|*" if compressed else "r:") as archive:
            for member in archive:
                inside = PurePosixPath(member.name)
                image = inside.suffix.lower() in datasets.folder.IMG_EXTENSIONS
                if not member.isreg() or not image or inside.name.startswith("._"):
                    continue
                content = None
                if compressed:
                    opened = archive.extractfile(member)
                    assert opened is not None
                    content = opened.read()
                elif member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                found.append(
                    Place(
                        str(inside), inside.parent.name, str(path), member.offset_data,
                        member.size, content,
                    )
                )  # fmt: skip
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{shown(path)} can't be read as a tar archive ({str(error)[:120]}); fetch or make it "
            "again"
        ) from error
    return found


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
