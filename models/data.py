"""Images and labels from CIFAR, a folder or tar of class folders, or an npz file."""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchvision import datasets

from .archives import expanded, open_tars
from .decoding import CorruptImageError
from .errors import DataError
from .files import shown, what_is
from .image_files import BY_FOLDER, BY_NAME, ImageFiles, open_folder
from .labelled import Labelled, Loader
from .preprocessing import Preprocessing
from .progress import bar
from .reading import Read

__all__ = ["Images", "Labelled", "Loader", "check_source", "load_images", "open_images"]

_BUILT_IN = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


@dataclass(frozen=True, eq=False)
class Images(Labelled):
    """Images and labels in memory.

    Args:
        x: uint8 ``[N, H, W, C]``.
        y: class numbers, int64 ``[N]``.
        source: where they came from, for messages.
        classes: names of the classes by number; none where the source doesn't name them.
        origin: what tells the source from all others; "" where nothing does.
        numbers: places of the images in it, int64 ``[N]``; None for all in order.
    """

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.int64]
    source: str
    classes: tuple[str, ...] = ()
    origin: str = ""
    numbers: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        x, y = self.x, self.y
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] not in (1, 3):
            raise DataError(
                f"{self.source}: the images are {x.dtype} {list(x.shape)}; they must be uint8 "
                "[N, height, width, channels] with 1 or 3 channels"
            )
        if not np.issubdtype(y.dtype, np.integer) or y.shape != x.shape[:1]:
            raise DataError(
                f"{self.source}: {len(x)} images with labels {y.dtype} {list(y.shape)}; there "
                "must be one whole number for each image"
            )
        if len(x) == 0:
            raise DataError(f"{self.source}: there are no images in it; choose another source")

    def identities(self) -> Iterator[Hashable]:
        """The source and the place in it of each image."""
        places = range(len(self)) if self.numbers is None else self.numbers.tolist()
        for place in places:
            yield self.origin or id(self), place

    def _chosen(self, which: slice | npt.NDArray[np.int64]) -> Images:
        before = np.arange(len(self)) if self.numbers is None else self.numbers
        return replace(self, x=self.x[which], y=self.y[which], numbers=before[which])

    def image(self, index: int, *, gray: bool) -> npt.NDArray[np.uint8]:
        """One image, in its own channels."""
        return self.x[index]

    def read(
        self,
        preprocessing: Preprocessing,
        size: int = 250,
        workers: int = 0,
        *,
        first: int = 0,
        step: int = 1,
    ) -> Iterator[Read]:
        """Batches in order; all images can be read."""
        if workers:
            yield from super().read(preprocessing, size, workers, first=first, step=step)
            return
        for start in range(first * size, len(self), step * size):
            part = slice(start, start + size)
            yield Read(preprocessing(self.x[part]), torch.from_numpy(self.y[part]), {})


def load_images(
    source: str | os.PathLike[str],
    *,
    train: bool = False,
    root: str | os.PathLike[str] = "data",
    cache: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Images:
    """Reads a SOURCE.

    Args:
        source: ``cifar10`` or ``cifar100`` (through torchvision, downloaded into `root`),
            ``digits`` (scikit-learn's 1,797 handwritten digits, nothing to download), a folder of
            class folders (classes in alphabetical order), or an ``.npz`` with ``x`` uint8 NHWC
            and ``y``.
        train: the training half of a built-in data set.
        root: where torchvision keeps its downloads.
        cache: folder for the decoded images of a folder, so that they are decoded once.
        progress: shows a bar on stderr while a folder is decoded.

    Raises:
        DataError: if the source doesn't exist, is empty, or holds something else.
    """
    name = str(source)
    if name == "digits":
        return _digits(train)
    if name in _BUILT_IN:
        return _built_in(name, train, root)
    check_source(source)
    path = Path(source)
    return _folder(path, cache, progress) if path.is_dir() else _npz(path)


def open_images(
    source: str | os.PathLike[str],
    *,
    train: bool = False,
    root: str | os.PathLike[str] = "data",
    labels: str = BY_FOLDER,
    progress: bool = False,
) -> Images | ImageFiles:
    """A SOURCE whose files are read and decoded only when they are wanted.

    Args:
        source: as for `load_images`, or a tar archive of class folders; ``FILE.tar:FOLDER`` where
            it holds several sets; a tar whose images have their class number beside them in a file
            ``.cls``, or several by a pattern: ``shard-{000..127}.tar``, ``shard-*.tar``. Images
            may have different sizes.
        train: the training half of a built-in data set.
        root: where torchvision keeps its downloads.
        labels: how the class of a file is told, see `image_files.labelled_by`.
        progress: shows a bar on stderr while archives are looked through.

    Raises:
        DataError: if the source doesn't exist, is empty, or holds something else.
    """
    check_source(source, labels)
    text = str(source)
    built_in = text == "digits" or text in _BUILT_IN
    shards = None if built_in else expanded(text)
    path, inside = _archive(text)
    if not built_in and path.is_dir():
        return open_folder(path, labels)
    if shards is not None or (not built_in and (inside or _is_tar(path))):
        named = text if shards is not None else str(path)
        return open_tars(shards or [path], named, inside, labels, progress=progress)
    found = load_images(source, train=train, root=root) if built_in else _npz(path)
    if labels != BY_FOLDER:
        raise DataError(
            f"{found.source} has labels of its own; --labels is for folders and tars of images"
        )
    return found


def _archive(source: str) -> tuple[Path, str]:
    """A file's path, and the folder in it that is meant: ``FILE.tar:FOLDER``."""
    path, colon, inside = source.rpartition(":")
    if colon and not Path(source).exists() and Path(path).is_file():
        return Path(path), inside
    return Path(source), ""


def _is_tar(path: Path) -> bool:
    try:
        return path.is_file() and not zipfile.is_zipfile(path) and tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return False


def check_source(source: str | os.PathLike[str] | None, labels: str = BY_FOLDER) -> None:
    """Refuses a SOURCE that doesn't exist, before anything is read; None is no source.

    Args:
        source: of images.
        labels: how the class of a file is told; only files in class folders can be told otherwise.

    Raises:
        DataError: naming it.
    """
    built_in = source is None or str(source) in ("digits", *_BUILT_IN)
    try:
        named = str(source)
        found = built_in or (named and _archive(named)[0].exists()) or expanded(named) is not None
        listed = labels in (BY_FOLDER, BY_NAME) or Path(labels).is_file()
    except (OSError, ValueError):
        found = listed = False
    if not found:
        raise DataError(
            f"no data at {shown(str(source))}: there is no such file or folder; pass cifar10, "
            "cifar100, a folder of class folders, a tar of them, shards with .cls files, or an .npz"
        )
    if not listed:
        raise DataError(
            f"no class folders at {shown(labels)}: there is no such file; --labels takes folder, "
            "name, or a text file that lists the class folders, a line each"
        )


def _digits(train: bool) -> Images:
    """scikit-learn's 8x8 digits; every fourth image is a test image."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits needs scikit-learn; run: pip install scikit-learn") from error
    data = load_digits()
    x = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
    chosen = (np.arange(len(x)) % 4 != 0) == train
    y = data.target[chosen].astype(np.int64)
    return Images(x[chosen], y, "digits", origin=f"digits {train}")


def _built_in(name: str, train: bool, root: str | os.PathLike[str]) -> Images:
    try:
        data = _BUILT_IN[name](str(root), train=train, download=True)
    except Exception as error:
        raise DataError(
            f"{name} can't be downloaded into {root} ({error}); download it by hand, or pass a "
            "folder of class folders or an .npz"
        ) from error
    x, y = np.asarray(data.data), np.asarray(data.targets, np.int64)
    return Images(x, y, name, tuple(data.classes), f"{name} {train}")


def _npz(path: Path) -> Images:
    try:
        found = what_is(path)
        if found is not None:
            raise ValueError(f"it is {found}")
        with np.load(path, allow_pickle=False) as content:
            missing = {"x", "y"} - set(content.files)
            if missing:
                raise DataError(
                    f"{path} has no array {' and '.join(sorted(missing))} (it has "
                    f"{', '.join(content.files) or 'none'}); it needs x, uint8 [N, H, W, C], and y"
                )
            x, y = content["x"], content["y"]
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise DataError(
            f"{shown(path)} can't be read as .npz ({str(error)[:160].splitlines()[0]}); write it "
            "with numpy.savez(path, x=images, y=labels)"
        ) from error
    if np.issubdtype(y.dtype, np.integer):
        y = y.astype(np.int64)
    return Images(x, y, str(path), origin=os.path.realpath(path))


def _folder(path: Path, cache: str | os.PathLike[str] | None, progress: bool) -> Images:
    listed = open_folder(path)
    kept: Path | None = None
    if cache is not None:
        signature = hashlib.sha256()
        for place, label in zip(listed.places, listed.y.tolist(), strict=True):
            signature.update(f"{place.path} {os.path.getsize(place.path)} {label}\n".encode())
        kept = Path(cache) / f"{path.name}-{signature.hexdigest()[:16]}.npz"
        if kept.is_file():
            return replace(_npz(kept), classes=listed.classes)
    images: list[npt.NDArray[np.uint8]] = []
    for index in bar(range(len(listed)), "decode", shown=progress):
        try:
            image = listed.image(index, gray=False)
        except CorruptImageError as error:
            raise DataError(
                f"{error.name} can't be decoded as an image ({error.reason}); replace or remove it"
            ) from error
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{listed.places[index].name} has {image.shape[0]}x{image.shape[1]} pixels, the "
                f"images before it {images[0].shape[0]}x{images[0].shape[1]}; resize them to one "
                "size"
            )
        images.append(image)
    result = Images(np.stack(images), listed.y, str(path), listed.classes)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".writing-{os.getpid()}-{kept.name}")
        np.savez(temporary, x=result.x, y=result.y)
        temporary.replace(kept)
    return result
