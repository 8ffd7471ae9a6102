"""Data that comes image by image, or as one pair of all images and labels, as batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..errors import InputError
from .label_names import label_among, named_parts

# Images of a batch that is made here.
BATCH = 128


def gathered(data: Any) -> Any:
    """Batches of a source: those that it gives, or those that are made of its single images.

    A `Dataset`, and what else gives images one at a time with a label each, is put into batches.
    The pair ``(x, y)`` of all images and their class indices is one batch. Anything else comes
    back as it is.
    """
    if _is_pair(data):
        return _Halves(*data)
    if isinstance(data, IterableDataset):
        return data if _is_batch(next(iter(data), None)) else Together(data)
    numbered = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if isinstance(data, Dataset) or (numbered and not isinstance(data, Iterable)):
        images = Numbered(data)
        return images if _is_batch(next(iter(images), None)) else Together(images)
    if isinstance(data, Iterator):
        first = next(data, None)
        whole = data if first is None else itertools.chain([first], data)
        return Together(whole) if _is_single(first) else whole
    if isinstance(data, DataLoader):
        alone = data.batch_size is None and data.batch_sampler is None
        return Together(data) if alone and _is_single(next(iter(data), None)) else data
    return Together(data) if numbered and _is_single(_first(data)) else data


def _first(data: Any) -> Any:
    """What is behind number 0; None where numbers aren't what it is read by."""
    try:
        return data[0] if len(data) else None
    except Exception:
        return None


class Numbered:
    """What is read by number, from 0 on."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return (self.data[i] for i in range(len(self.data)))


class Together:
    """Batches made of single images; as often as these can be read."""

    def __init__(self, images: Iterable[Any]) -> None:
        self.images = images

    def __iter__(self) -> Iterator[Any]:
        images = iter(self.images)
        while some := list(itertools.islice(images, BATCH)):
            yield together(some)


class _Halves:
    """Batches of all images and all labels."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return -(-len(self.x) // BATCH)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self.x), BATCH):
            yield self.x[start : start + BATCH], self.y[start : start + BATCH]


def together(images: Sequence[Any]) -> Any:
    """Single images, each with what belongs to it, as one batch.

    Raises:
        InputError: where they are no tensors of one size.
    """
    try:
        return default_collate(list(images))
    except (TypeError, RuntimeError, ValueError) as error:
        if "PIL." in str(error):
            raise InputError(
                "the data gives PIL images; make tensors of them: transform=ToTensor()"
            ) from error
        raise InputError(
            "the data gives single images that can't be put together into a batch "
            f"({str(error).splitlines()[0][:80]}); make tensors of one size of them (Resize, "
            "ToTensor), or give a DataLoader with a collate_fn"
        ) from error


def _is_single(item: Any) -> bool:
    """Whether something is surely one image with its label, rather than a batch."""
    named = named_parts(item)
    if named is not None:
        key = label_among(named)
        arrays = [value for value in named.values() if _array(value) and value.ndim]
        return key is not None and _one_label(named[key]) and any(map(_is_image, arrays))
    if not isinstance(item, tuple | list) or len(item) < 2 or not _one_label(item[-1]):
        return False
    return type(item[0]).__module__.startswith("PIL.") or (_array(item[0]) and _is_image(item[0]))


def _is_image(x: Any) -> bool:
    """Whether an array is a vector, or has the form ``[C, H, W]`` or ``[H, W, C]``."""
    return x.ndim == 1 or (x.ndim == 3 and {x.shape[0], x.shape[-1]} & {1, 3, 4} != set())


def _is_batch(item: Any) -> bool:
    """Whether an item of a data set is a batch already."""
    first, last = (item[0], item[-1]) if isinstance(item, tuple | list) and item else (item, None)
    if last is not None and len(item) > 1:
        labels = _array(last) and last.ndim == 1 and not _floating(last)
        return bool(labels and _array(first) and first.ndim > 1 and len(first) == len(last))
    return _array(first) and first.ndim > 3


def _one_label(label: Any) -> bool:
    """Whether a label belongs to one image."""
    return isinstance(label, int | np.integer | str) or (_array(label) and label.ndim == 0)


def _is_pair(data: Any) -> bool:
    """Whether data are all images and their class indices, as arrays."""
    if not isinstance(data, tuple | list) or len(data) != 2 or not all(map(_array, data)):
        return False
    x, y = data
    # A list of two batches of one network has two of a kind.
    alike = x.ndim == y.ndim and _floating(x) == _floating(y)
    return bool(y.ndim == 1 and x.ndim and len(x) == len(y) and not _floating(y) and not alike)


def _array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _floating(value: Any) -> bool:
    return value.is_floating_point() if isinstance(value, Tensor) else value.dtype.kind == "f"
