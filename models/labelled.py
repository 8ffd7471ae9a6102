"""What images in memory and images in files have in common: labels, drawing, and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .corrupt import LeftOut, OnCorrupt
from .errors import DataError
from .preprocessing import Preprocessing
from .reading import Read, read_batches

_ERROR = OnCorrupt()


class Labelled(ABC):
    """Images with class numbers ``y`` int64 ``[N]``, a source for messages, and class names."""

    y: npt.NDArray[np.int64]
    source: str
    classes: tuple[str, ...]

    @abstractmethod
    def image(self, index: int, *, gray: bool) -> npt.NDArray[np.uint8]:
        """One image ``[H, W, C]``; with one channel where gray is asked for and known."""

    @abstractmethod
    def identities(self) -> Iterator[Hashable]:
        """What tells each image from all others, whichever source it was reached by."""

    @abstractmethod
    def _chosen(self, which: slice | npt.NDArray[np.int64]) -> Self:
        """Those at some places."""

    def __len__(self) -> int:
        return len(self.y)

    def first(self, count: int | None) -> Self:
        """The first `count` images, all if None.

        Raises:
            DataError: if count is below 1.
        """
        if count is not None and count < 1:
            raise DataError(f"{self.source}: asked for {count} images; ask for at least one")
        return self._chosen(slice(count))

    def limited(self, count: int | None) -> Self:
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

    def sample(self, count: int, seed: int) -> Self:
        """At most `count` images, drawn without repetition, in order."""
        if count < 1:
            raise DataError(f"{self.source}: asked for {count} images; ask for at least one")
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        chosen.sort()
        return self._chosen(chosen)

    def sample_evenly(self, count: int, seed: int) -> Self:
        """At most `count` images, drawn without repetition and equally from every class, in order.

        A class with too few gives all that it has.
        """
        if count < 1:
            raise DataError(f"{self.source}: asked for {count} images; ask for at least one")
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self))
        _, kinds = np.unique(self.y[order], return_inverse=True)
        by_class = np.argsort(kinds, kind="stable")
        turn = np.empty(len(self), np.int64)  # the how manyth of its class in this order
        turn[by_class] = np.arange(len(self)) - np.searchsorted(kinds[by_class], kinds[by_class])
        # Which classes give one more where the count doesn't come out even.
        luck = rng.permutation(kinds.max() + 1)[kinds]
        chosen = order[np.lexsort((luck, turn))][:count]
        chosen.sort()
        return self._chosen(chosen)

    def check_labels(self, classes: int) -> None:
        """Refuses labels that a model with so many classes can't predict.

        Raises:
            DataError: naming the first such label, or another number of classes.
        """
        if self.classes and len(self.classes) != classes:
            raise DataError(
                f"{self.source}: it has {len(self.classes)} classes and the model {classes}, so "
                "their order doesn't tell which is which; give --labels name if every file's name "
                "is its class number, --labels FILE with the model's class folders in order, a "
                "line each, or --classes for another number of the model's"
            )
        wrong = np.flatnonzero((self.y < 0) | (self.y >= classes))
        if len(wrong):
            raise DataError(
                f"{self.source}: {len(wrong)} of {len(self)} labels are outside 0..{classes - 1} "
                f"(image {wrong[0]} has label {self.y[wrong[0]]}); check the labels, or the number "
                "of classes of the model"
            )

    def read(
        self,
        preprocessing: Preprocessing,
        size: int = 250,
        workers: int = 0,
        *,
        first: int = 0,
        step: int = 1,
    ) -> Iterator[Read]:
        """Batches in order with what was wrong with images that are left out, read when wanted.

        Args:
            preprocessing: of each image.
            size: of a batch.
            workers: processes that read ahead.
            first, step: only batches number first, first + step, ... are read.
        """
        yield from read_batches(self, preprocessing, size, workers, first=first, step=step)

    def batches(
        self, preprocessing: Preprocessing, size: int = 250, workers: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Preprocessed ``[B, C, H, W]`` and labels ``[B]``, in order, read as they are wanted.

        Args: as for `read`.

        Raises:
            CorruptImageError: for an image that can't be decoded.
        """
        yield from Loader(self, preprocessing, size, workers)


class Loader:
    """Batches that can be gone through again and again; the images are preprocessed on the way.

    Args:
        images: what to read.
        preprocessing: of each image.
        batch_size: images of a batch. It comes short where images can't be decoded.
        workers: processes that read ahead; the batches are the same for any number.
        corrupt: what is done about images that can't be decoded.
        drawn: how the images were drawn, in a line for a reader.

    Attributes:
        left_out: those of the passes so far.
    """

    def __init__(
        self,
        images: Labelled,
        preprocessing: Preprocessing,
        batch_size: int = 250,
        workers: int = 0,
        corrupt: OnCorrupt = _ERROR,
        drawn: str = "",
    ) -> None:
        self.images, self.preprocessing = images, preprocessing
        self.batch_size, self.workers = batch_size, workers
        self.classes, self.drawn = images.classes, drawn
        self.left_out = LeftOut(images.source, len(images), corrupt)
        if corrupt.skip:
            # A batch may fall away, and all count what is left out: each process reads everything.
            self.every = None  # type: ignore[method-assign,assignment]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._read(self.batch_size, self.workers)

    def every(self, first: int, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches number first, first + step, ...: those of one of several processes."""
        return self._read(self.batch_size, self.workers, first, step)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """A batch of the first `count` images that can be decoded.

        Raises:
            DataError: if there is none.
        """
        x: list[Tensor] = []
        y: list[Tensor] = []
        for images, labels in self._read(count, 0):
            x.append(images)
            y.append(labels)
            if sum(map(len, y)) >= count:
                break
        if not x:
            raise DataError(f"{self.images.source}: none of its images can be decoded")
        if len(x) == 1:
            return x[0], y[0]
        return torch.cat(x)[:count], torch.cat(y)[:count]

    def _read(
        self, size: int, workers: int, first: int = 0, step: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        read = self.images.read(self.preprocessing, size, workers, first=first, step=step)
        for x, y, failures in read:
            self.left_out.add(failures)
            if len(y):
                yield x, y
