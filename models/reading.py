"""Images read, decoded and prepared one by one, in processes of their own if wanted, as batches."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .decoding import CorruptImageError
from .errors import DataError
from .preprocessing import Preprocessing

# Characters that a socket's path may have, and what Python adds to the temporary folder's:
# /pymp-12345678/listener-12345678.
_LONGEST, _SOCKET = 107, 32


class Pictures(Protocol):
    """Images by number, with class numbers ``y`` int64 ``[N]``."""

    y: npt.NDArray[np.int64]

    def image(self, index: int, *, gray: bool) -> npt.NDArray[np.uint8]:
        """One image ``[H, W, C]``."""


class Read(NamedTuple):
    """A batch.

    Args:
        x: prepared images ``[B, C, H, W]``; empty ``[0]`` if none could be decoded.
        y: their class numbers ``[B]``.
        failures: what was wrong with images that are left out, by their number.
    """

    x: Tensor
    y: Tensor
    failures: dict[int, CorruptImageError]


class _Sample(NamedTuple):
    """One image by its number: its pixels from `Preprocessing.fitted`, or what is wrong."""

    number: int
    label: int
    pixels: npt.NDArray[Any] | None
    error: CorruptImageError | None


def read_batches(
    images: Pictures,
    preprocessing: Preprocessing,
    size: int,
    workers: int = 0,
    *,
    first: int = 0,
    step: int = 1,
) -> Iterator[Read]:
    """Batches of prepared images in order, read as they are wanted: the same for any `workers`.

    Args:
        images: what to read.
        preprocessing: of each image.
        size: images of a batch, those that can't be decoded among them.
        workers: processes that read ahead.
        first, step: only batches number first, first + step, ... are read.

    Raises:
        DataError: if such a process ends, or couldn't hand its images over.
    """
    if workers:
        _check_sockets()
    # With a generator of its own it leaves torch's random numbers alone.
    count = len(images.y)
    starts = range(first * size, count, step * size)
    loader: DataLoader[Any] = DataLoader(
        _Fitted(images, preprocessing),
        batch_sampler=[range(i, min(i + size, count)) for i in starts],
        num_workers=workers,
        collate_fn=partial(_together, preprocessing),
        generator=torch.Generator().manual_seed(0),
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a process that reads images ended ({str(error).splitlines()[0][:120]}); memory may "
            "be short: give fewer --workers, or a smaller --batch-size"
        ) from error


def _check_sockets() -> None:
    """Refuses a temporary folder in which reading processes can't make sockets.

    torch hands tensors over by sockets there. Where that fails, it waits for them for ever.
    """
    folder = tempfile.gettempdir()
    if os.name == "posix" and len(os.fsencode(folder)) + _SOCKET > _LONGEST:
        raise DataError(
            f"the path of the temporary folder has {len(os.fsencode(folder))} characters, too many "
            f"for the sockets of --workers ({_LONGEST - _SOCKET} at most): set TMPDIR to a shorter "
            "one, or give --workers 0"
        )


class _Fitted(Dataset[_Sample]):
    """Images one by one at the network's size."""

    def __init__(self, images: Pictures, preprocessing: Preprocessing) -> None:
        self._images, self._preprocessing = images, preprocessing

    def __len__(self) -> int:
        return len(self._images.y)

    def __getitem__(self, index: int) -> _Sample:
        label = int(self._images.y[index])
        try:
            image = self._images.image(index, gray=len(self._preprocessing.mean) == 1)
        except CorruptImageError as error:
            # A new one: the traceback of this one would keep the images of the batch.
            return _Sample(index, label, None, CorruptImageError(error.name, error.reason))
        return _Sample(index, label, self._preprocessing.fitted(image), None)


def _together(preprocessing: Preprocessing, samples: Sequence[_Sample]) -> Read:
    """The images that could be decoded as one batch."""
    failures = {sample.number: sample.error for sample in samples if sample.error is not None}
    kept = [(sample.pixels, sample.label) for sample in samples if sample.pixels is not None]
    if not kept:
        return Read(torch.zeros(0), torch.zeros(0, dtype=torch.int64), failures)
    x = preprocessing.normalised(np.stack([pixels for pixels, _ in kept]))
    return Read(x, torch.tensor([label for _, label in kept]), failures)
