"""Which batches of a source each of N processes reads: batch i goes to process i mod N."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
)

from ..errors import InputError
from .batches import same_numbers
from .ranks import Team

Item = TypeVar("Item")
# Batches behind the last of any source.
_BEYOND = 1 << 40


@runtime_checkable
class Wrapped(Protocol):
    """What makes other batches of those of a source."""

    batches: Iterable[Any]

    def over(self, share: Iterable[Any], source: Share) -> Iterable[Any]:
        """The same of a share of the source."""


@runtime_checkable
class Divisible(Protocol):
    """A source that reads some of its batches without the others."""

    def every(self, first: int, step: int) -> Iterator[Any]:
        """Batches number first, first + step, ..."""


class Share:
    """The batches of one process.

    Args:
        team: the processes; all of them must be given the same source.
        source: batches.

    Attributes:
        first: the first batch of the whole source.
        index: the number of the batch that was read last.

    Raises:
        InputError: for a source that isn't the same in every process, or has no batch.
    """

    def __init__(self, team: Team, source: Iterable[Any]) -> None:
        self._team, self._source = team, source
        self.index = -1
        self._read: Iterator[Any] | None = None
        sampler = getattr(source, "sampler", None)
        inner = getattr(getattr(source, "batch_sampler", None), "sampler", None)
        if isinstance(sampler, DistributedSampler) or isinstance(inner, DistributedSampler):
            raise InputError(
                "the DataLoader has a DistributedSampler, so that every process would take a part "
                "of its part; give every process a DataLoader of all images, which are shared out "
                "here"
            )
        self._own = self._direct()
        self.first = self._peek()
        team.same(
            "first batch",
            digest(self.first),
            "give every process the same data in the same order (not its own part, and a shuffling "
            "DataLoader a generator=torch.Generator().manual_seed(0))",
        )

    def _direct(self) -> Divisible | None:
        """A way to the batches of this process that doesn't read the others."""
        source = self._source
        if isinstance(source, list | tuple):
            return _Listed(source)
        if isinstance(source, Divisible):
            return source
        return _Loader.of(source) if isinstance(source, DataLoader) else None

    def _peek(self) -> Any:
        none = object()
        if self._own is not None:
            first = next(self._own.every(0, _BEYOND), none)
        else:
            read = iter(self._source)
            first = next(read, none)
            # Goes on where it is: a source may not give the same batches again.
            self._read = itertools.chain([first], read)
        if first is none:
            raise InputError("the data yields no batch; give at least one")
        return first

    def __iter__(self) -> Iterator[Any]:
        rank, size = self._team.rank, self._team.size
        if self._own is not None:
            own: Iterator[Any] = self._own.every(rank, size)
            numbers: Iterator[int] = itertools.count(rank, size)
        else:
            read, self._read = self._read or iter(self._source), None
            own, numbers = itertools.islice(read, rank, None, size), itertools.count(rank, size)
        for number, batch in zip(numbers, own, strict=False):
            self.index = number
            yield batch


class _Listed:
    """Batches of a list."""

    def __init__(self, batches: list[Any] | tuple[Any, ...]) -> None:
        self.batches = batches

    def every(self, first: int, step: int) -> Iterator[Any]:
        return iter(self.batches[first::step])


class _Loader:
    """A `DataLoader` that reads its images in their order, and gives the same each time."""

    def __init__(self, loader: DataLoader[Any], indices: list[list[int]]) -> None:
        self.loader, self.indices = loader, indices

    @staticmethod
    def of(loader: DataLoader[Any]) -> _Loader | None:
        """None for one that must be read as a whole: in random order, or with random changes."""
        sampler = loader.batch_sampler
        if isinstance(loader.dataset, IterableDataset) or type(sampler) is not BatchSampler:
            return None
        if type(sampler.sampler) is not SequentialSampler or loader.collate_fn is None:
            return None
        found = _Loader(loader, list(sampler))
        if not found.indices:
            return found
        with same_numbers():
            once, again = (digest(found._fetched(found.indices[0])) for _ in range(2))
        return found if once == again else None

    def _fetched(self, indices: list[int]) -> Any:
        collate: Any = self.loader.collate_fn
        return collate([self.loader.dataset[i] for i in indices])

    def every(self, first: int, step: int) -> Iterator[Any]:
        own = self.indices[first::step]
        if len(own) < 2:  # for which no worker is started
            return iter([self._fetched(indices) for indices in own])
        loader = self.loader
        again: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=own,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
        )
        return iter(again)


def shared(team: Team, batches: Iterable[Any]) -> tuple[Share, Iterable[Any]]:
    """A process's share of a source, and the batches that its wrappers make of it.

    Args:
        team: the processes.
        batches: a source, or what wraps one.
    """
    wrappers: list[Wrapped] = []
    while isinstance(batches, Wrapped):
        wrappers.append(batches)
        batches = batches.batches
    share = Share(team, batches)
    made: Iterable[Any] = share
    for wrapper in reversed(wrappers):
        made = wrapper.over(made, share)
    return share, made


def numbered(share: Share, batches: Iterable[Item]) -> Iterator[tuple[int, Item]]:
    """What is made of a share, each with the number of the batch that it came from."""
    for batch in batches:
        yield share.index, batch


def rounds(team: Team, step: str, own: Iterable[tuple[int, Item]]) -> Iterator[list[Item]]:
    """What this process has of each round of the source: N batches, one for each process.

    All processes go through as many rounds.

    Args:
        team: the processes.
        step: what they are at.
        own: numbered.
    """
    left = iter(own)
    ahead = next(left, None)
    for number in itertools.count(team.rank, team.size):
        mine: list[Item] = []
        while ahead is not None and ahead[0] == number:
            mine.append(ahead[1])
            ahead = next(left, None)
        if not any(team.gather(f"{step}: round", bool(mine) or ahead is not None)):
            return
        yield mine


def digest(value: Any) -> str:
    """What tells one batch, or one set of tensors, from another."""
    found = hashlib.sha256()
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Mapping):
            found.update(digest(dict(leaf)).encode())
        elif isinstance(leaf, Tensor | np.ndarray):
            array = leaf.detach().cpu().contiguous() if isinstance(leaf, Tensor) else leaf
            found.update(f"{array.dtype} {tuple(array.shape)}".encode())
            found.update(_bytes(array))
        elif isinstance(leaf, str | bytes | int | float | None):
            found.update(repr(leaf).encode())
        else:
            found.update(type(leaf).__qualname__.encode())
    return found.hexdigest()


def _bytes(array: Tensor | np.ndarray[Any, Any]) -> bytes:
    if isinstance(array, Tensor):
        if array.layout != torch.strided or not array.numel():
            return b""
        return array.flatten().view(torch.uint8).numpy().tobytes()
    return array.tobytes() if array.dtype.kind != "O" else repr(array.tolist()).encode()


def count_of(batches: Iterable[Any]) -> int | None:
    """How many batches there are, if they say so."""
    return len(batches) if isinstance(batches, Sized) else None
