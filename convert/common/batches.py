"""Calibration data in every form that a user has it in, as batches that can be read twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from ..errors import CalibrationError, ConversionError, InputError
from .single_images import BATCH as _BATCH
from .single_images import gathered
from .torch_threads import use_one_thread

# A one-shot iterator is kept in memory up to this size.
KEPT_BYTES = 2 * 1024**3
_END = object()
# So many batches of a list, and of a data loader, are looked at before any is run.
_LISTED, _LOADED = 64, 3


def batches_of(calibration: Any, axis: int | None = 0) -> Iterable[Any]:
    """Calibration batches that can be read twice; CalibrationError for what is none.

    Args:
        calibration: in any form.
        axis: along which one tensor is cut into batches; None leaves it whole.
    """
    if isinstance(calibration, Tensor | np.ndarray):
        return _pieces(calibration, axis, "calibration", CalibrationError)
    if isinstance(calibration, Mapping):
        return [calibration]
    source = gathered(calibration)
    if not isinstance(source, Iterable) or isinstance(source, str | bytes | nn.Module):
        raise CalibrationError(
            f"the calibration data is a {type(calibration).__name__}; give a DataLoader, an "
            "iterable of batches, or one tensor of images"
        )
    return _kept(iter(source)) if isinstance(calibration, Iterator) else source


def others_of(batches: Iterable[Any]) -> list[Any]:
    """A few batches behind the first: those of a list, and the next two of a `DataLoader`.

    Others may cost much to read, or may not give the same twice.

    Args:
        batches: from `batches_of`.
    """
    if isinstance(batches, list | tuple):
        return list(batches[1:_LISTED])
    if not isinstance(batches, DataLoader):
        return []
    with same_numbers():
        return list(itertools.islice(batches, 1, _LOADED))


@contextmanager
def same_numbers() -> Iterator[None]:
    """Random numbers that are drawn inside the block are drawn again behind it."""
    # What data sets draw from: numpy's old generator, too.
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def _pieces(
    images: Tensor | np.ndarray[Any, Any],
    axis: int | None,
    what: str,
    refusal: type[ConversionError],
) -> Iterable[Any]:
    """One array of images as batches; whole without an axis to cut along."""
    if images.ndim <= (axis or 0) or 0 in images.shape:
        raise refusal(f"the {what} tensor has shape {tuple(images.shape)}; give [images, ...]")
    if axis is None:
        return [images]
    if isinstance(images, Tensor):
        return images.split(_BATCH, axis)
    return np.array_split(images, range(_BATCH, images.shape[axis], _BATCH), axis)


def _kept(once: Iterator[Any]) -> list[Any]:
    """The batches of what can be read only once; CalibrationError where memory is too small."""
    kept, held = [], 0
    for batch in once:
        leaves = pytree.tree_leaves(batch)
        held += sum(t.numel() * t.element_size() for t in leaves if isinstance(t, Tensor))
        if held > KEPT_BYTES:
            raise CalibrationError(
                f"the calibration iterator holds more than {KEPT_BYTES / 1024**3:.0f} GiB and can "
                "be read only once; give a DataLoader or a list of batches instead"
            )
        kept.append(batch)
    return kept


def batches_once(data: Any, axis: int | None = 0) -> Iterable[Any]:
    """Batches to be read once; InputError for what is none. One tensor or dict is one set.

    Args:
        data: in any form.
        axis: as for `batches_of`.
    """
    if isinstance(data, Tensor | np.ndarray):
        return _pieces(data, axis, "test", InputError)
    if isinstance(data, Mapping):
        return [data]
    source = gathered(data)
    if not isinstance(source, Iterable) or isinstance(source, str | bytes | nn.Module):
        raise InputError(
            f"the test data is a {type(data).__name__}; give a DataLoader, an iterable of "
            "batches, or one tensor of images"
        )
    return source


def ahead(data: Iterable[Any]) -> Iterator[Any]:
    """The same batches, each read in another thread while the one before is worked on.

    An error of the data is raised where the batch would have come.
    """
    read: Queue[tuple[Any, BaseException | None]] = Queue(maxsize=1)
    stopped = Event()

    def give(item: Any, error: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                read.put((item, error), timeout=0.1)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        use_one_thread()
        try:
            for batch in data:
                if not give(batch):
                    return
        except BaseException as error:
            give(_END, error)
        else:
            give(_END)

    thread = Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = read.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
