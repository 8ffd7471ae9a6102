"""One reading of a data source: the first batch decides which inputs all the others give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..common.shares import Share
from ..errors import InputError
from .batch_forms import Given, read_batch
from .forward_parameters import Parameters

# Whole images may lie this far outside the calibrated range, in its widths.
_MARGIN = 0.5


class BatchReader:
    """Reads the batches of one data source, all in the same way.

    Args:
        parameters: what the network takes.

    Attributes:
        notes: how the batches were read, where that isn't plain.
        count: batches read since the source was begun.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.notes: list[str] = []
        self._inputs: tuple[str, ...] | None = None
        # Types of the first batch's flat inputs.
        self._types: list[torch.dtype | None] = []
        # Where the label is, by the form of a batch.
        self._labels: dict[object, int | str | None] = {}
        self.count = 0

    def read(self, batch: Any) -> Given:
        """A batch's inputs, in the network's types, and its label.

        Raises:
            InputError: for a batch that can't be read, or gives other inputs than the first.
        """
        given = batch if isinstance(batch, Given) else read_batch(batch, self.parameters)
        self.count += 1
        inputs = given.names
        if self._inputs is None:
            self._inputs = inputs
        if inputs != self._inputs:
            raise InputError(
                f"batch {self.count} gives the inputs {', '.join(inputs)}, the first one "
                f"{', '.join(self._inputs)}; give every batch the same inputs"
            )
        form = (type(batch), len(batch) if isinstance(batch, tuple | list) else 0)
        if self._labels.setdefault(form, given.label_from) != given.label_from:
            raise InputError(
                f"the label of batch {self.count} isn't where it was in the batches before; give "
                f"every batch the same form: {self.parameters.form()}"
            )
        for note in given.notes:
            self._tell(note)
        return self._cast(given)

    def _tell(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _cast(self, given: Given) -> Given:
        """Floating-point inputs of another type in the network's."""
        wanted = self.parameters.dtypes
        leaves, spec = pytree.tree_flatten((given.args, given.kwargs))
        tensors = any(isinstance(leaf, Tensor) and leaf.dim() for leaf in leaves)
        if not tensors:
            raise InputError("a batch holds no tensor with a batch dimension")
        types = [leaf.dtype if isinstance(leaf, Tensor) else None for leaf in leaves]
        self._types = self._types or types
        for first, now in zip(self._types, types, strict=False):
            if (first == torch.uint8) != (now == torch.uint8):
                raise InputError(
                    f"batch {self.count} has {now} where the first one has {first}; prepare all "
                    "images in the same way"
                )
        # Another number of them is refused when the network is called.
        if len(wanted) != len(leaves):
            return given
        cast = [self._as(leaf, place, wanted[place]) for place, leaf in enumerate(leaves)]
        if all(a is b for a, b in zip(cast, leaves, strict=True)):
            return given
        args, kwargs = pytree.tree_unflatten(cast, spec)
        return replace(given, args=args, kwargs=kwargs)

    def _as(self, leaf: Any, place: int, dtype: torch.dtype | None) -> Any:
        """One flat input in a type; what can't be cast is refused when the network is called."""
        if not isinstance(leaf, Tensor) or dtype is None or leaf.dtype == dtype:
            return leaf
        if not dtype.is_floating_point:
            return leaf
        if leaf.is_floating_point():
            self._tell(f"{leaf.dtype} inputs of a batch were cast to {dtype}")
            return leaf.to(dtype)
        if leaf.dtype != torch.uint8:
            return leaf
        bounds = self.parameters.ranges[place] if self.parameters.ranges else None
        if bounds is not None and leaf.numel():
            high = float(leaf.max())
            if high > bounds[1] + _MARGIN * (bounds[1] - bounds[0]):
                raise InputError(
                    f"the images of a batch are uint8 up to {high:.0f}, but the network was "
                    f"calibrated on values from {bounds[0]:.3g} to {bounds[1]:.3g}; prepare them "
                    "as at calibration (divided by 255, normalised, ...)"
                )
        self._tell(unscaled(dtype))
        return leaf.to(dtype)


def unscaled(dtype: torch.dtype) -> str:
    """What is said of whole images that a network of a floating-point type is given."""
    return f"uint8 images were cast to {dtype}, not scaled to 0..1"


class ReadBatches:
    """The batches of a source as a reader reads them; as often as the source can be read.

    Args:
        batches: the source.
        reader: how it is read.
    """

    def __init__(self, batches: Iterable[Any], reader: BatchReader) -> None:
        self.batches, self.reader = batches, reader

    def __iter__(self) -> Iterator[Given]:
        self.reader.count = 0
        return map(self.reader.read, self.batches)

    def over(self, share: Iterable[Any], source: Share) -> ReadBatches:
        """The same of a part of the source, whose batches keep their numbers."""
        return _ReadShare(share, self.reader, source)


class _ReadShare(ReadBatches):
    """The same of one process's batches."""

    def __init__(self, batches: Iterable[Any], reader: BatchReader, source: Share) -> None:
        super().__init__(batches, reader)
        self._source = source

    def __iter__(self) -> Iterator[Given]:
        for batch in self.batches:
            self.reader.count = self._source.index
            yield self.reader.read(batch)


class SizedBatches(ReadBatches):
    """The same of a source that knows how many there are."""

    def __len__(self) -> int:
        assert isinstance(self.batches, Sized)
        return len(self.batches)


def read_by(batches: Iterable[Any], reader: BatchReader) -> ReadBatches:
    """The batches of a source as a reader reads them."""
    kind = SizedBatches if isinstance(batches, Sized) else ReadBatches
    return kind(batches, reader)


def moved(
    given: Given, device: torch.device | str | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a call on a device; where they are if that is None."""

    def move(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) and device else leaf

    args, kwargs = pytree.tree_map(move, (given.args, given.kwargs))
    return args, kwargs
