"""Images and labels from CIFAR, a folder of class folders, or an npz file."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.io import ImageReadMode, decode_image

from .errors import DataError
from .files import shown, what_is
from .preprocessing import Preprocessing
from .progress import bar

_BUILT_IN = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


@dataclass(frozen=True, eq=False)
class Images:
    """Images and labels in memory.

    Args:
        x: uint8 ``[N, H, W, C]``.
        y: class numbers, int64 ``[N]``.
        source: where they came from, for messages.
        classes: names of the classes by number; none where the source doesn't name them.
    """

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.int64]
    source: str
    classes: tuple[str, ...] = ()

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

    def __len__(self) -> int:
        return len(self.x)

    def first(self, count: int | None) -> Images:
        """The first `count` images, all if None.

        Raises:
            DataError: if count is below 1.
        """
        if count is not None and count < 1:
            raise DataError(f"{self.source}: asked for {count} images; ask for at least one")
        return self._chosen(slice(count))

    def limited(self, count: int | None) -> Images:
        """At most `count` images, all if None: the first, or where class after class comes, evenly.

        Raises:
            DataError: if count is below 1.
        """
        if count is None or not 0 < count < len(self) or not self._by_class:
            return self.first(count)
        return self._chosen(np.arange(count) * len(self) // count)

    @property
    def _by_class(self) -> bool:
        """Whether the images of every class come together, as in a folder."""
        return 1 < len(np.unique(self.y)) == 1 + np.count_nonzero(np.diff(self.y))

    def _chosen(self, which: slice | npt.NDArray[np.int64]) -> Images:
        return Images(self.x[which], self.y[which], self.source, self.classes)

    def sample(self, count: int, seed: int) -> Images:
        """At most `count` images, drawn without repetition, in order."""
        if count < 1:
            raise DataError(f"{self.source}: asked for {count} images; ask for at least one")
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        chosen.sort()
        return self._chosen(chosen)

    def check_labels(self, classes: int) -> None:
        """Refuses labels that a model with so many classes can't predict.

        Raises:
            DataError: naming the first such label.
        """
        wrong = np.flatnonzero((self.y < 0) | (self.y >= classes))
        if len(wrong):
            raise DataError(
                f"{self.source}: {len(wrong)} of {len(self)} labels are outside 0..{classes - 1} "
                f"(image {wrong[0]} has label {self.y[wrong[0]]}); check the labels, or the number "
                "of classes of the model"
            )

    def batches(
        self, preprocessing: Preprocessing, size: int = 250
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Preprocessed ``[B, C, H, W]`` and labels ``[B]``, in order."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield preprocessing(self.x[part]), torch.from_numpy(self.y[part])


class Loader:
    """Batches that can be gone through again and again; the images are preprocessed on the way."""

    def __init__(self, images: Images, preprocessing: Preprocessing, batch_size: int = 250) -> None:
        self.images, self.preprocessing, self.batch_size = images, preprocessing, batch_size
        self.classes = images.classes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.images.batches(self.preprocessing, self.batch_size)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)


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


def check_source(source: str | os.PathLike[str] | None) -> None:
    """Refuses a SOURCE that doesn't exist, before anything is read; None is no source.

    Raises:
        DataError: naming it.
    """
    if source is None or str(source) in ("digits", *_BUILT_IN):
        return
    try:
        found = str(source) and Path(source).exists()
    except (OSError, ValueError):
        found = False
    if not found:
        raise DataError(
            f"no data at {shown(source)}: there is no such file or folder; pass cifar10, cifar100, "
            "a folder of class folders, or an .npz"
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
    return Images(x[chosen], data.target[chosen].astype(np.int64), "digits")


def _built_in(name: str, train: bool, root: str | os.PathLike[str]) -> Images:
    try:
        data = _BUILT_IN[name](str(root), train=train, download=True)
    except Exception as error:
        raise DataError(
            f"{name} can't be downloaded into {root} ({error}); download it by hand, or pass a "
            "folder of class folders or an .npz"
        ) from error
    x, y = np.asarray(data.data), np.asarray(data.targets, np.int64)
    return Images(x, y, name, tuple(data.classes))


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
    return Images(x, y, str(path))


def _folder(path: Path, cache: str | os.PathLike[str] | None, progress: bool) -> Images:
    try:
        folder = datasets.ImageFolder(str(path))
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is not a folder of class folders with images ({str(error)[:160]}); put the "
            "images of each class into a folder of its own"
        ) from error
    listed, classes = folder.samples, tuple(folder.classes)
    kept: Path | None = None
    if cache is not None:
        signature = hashlib.sha256()
        for file, label in listed:
            signature.update(f"{file} {os.path.getsize(file)} {label}\n".encode())
        kept = Path(cache) / f"{path.name}-{signature.hexdigest()[:16]}.npz"
        if kept.is_file():
            return replace(_npz(kept), classes=classes)
    images = []
    for file, _ in bar(listed, "decode", shown=progress):
        try:
            image = decode_image(file, ImageReadMode.RGB).permute(1, 2, 0).numpy()
        except RuntimeError as error:
            raise DataError(
                f"{file} can't be decoded as an image ({str(error).splitlines()[0][:120]}); "
                "replace or remove it"
            ) from error
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{file} has {image.shape[0]}x{image.shape[1]} pixels, the images before it "
                f"{images[0].shape[0]}x{images[0].shape[1]}; resize them to one size"
            )
        images.append(image)
    labels = np.asarray([label for _, label in listed], np.int64)
    result = Images(np.stack(images), labels, str(path), classes)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".writing-{os.getpid()}-{kept.name}")
        np.savez(temporary, x=result.x, y=result.y)
        temporary.replace(kept)
    return result
