"""Shares of a source: every batch is read by one process, and where possible by no other."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

from convert.calls.batch_reading import BatchReader, read_by
from convert.calls.forward_parameters import parameters_of
from convert.common.shares import Share, digest, numbered, rounds, shared
from convert.errors import InputError


class _Alone:
    """A team whose other processes say what this one says."""

    def __init__(self, rank: int, size: int, rounds: int = 0) -> None:
        self.rank, self.size, self.rounds = rank, size, rounds

    def same(self, what: str, value: str, remedy: str) -> None:
        assert what and value and remedy

    def gather(self, step: str, value: bool, device: Any = "cpu") -> list[bool]:
        self.rounds -= 1
        return [value, self.rounds >= 0]


class _Images(Dataset[Any]):
    """Twenty images; notes which are read."""

    def __init__(self, *, noisy: bool = False) -> None:
        self.read: list[int] = []
        self._noisy = noisy

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        self.read.append(index)
        return torch.full((2,), float(index)) + (torch.rand(2) if self._noisy else 0)


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(torch.arange(40.0).view(20, 2))


_SOURCES = {
    "list": lambda: list(torch.arange(40.0).view(20, 2).split(3)),
    "loader": lambda: DataLoader(_Images(), 3),
    "last left out": lambda: DataLoader(_Images(), 3, drop_last=True),
    "shuffled": lambda: DataLoader(
        _Images(), 3, shuffle=True, generator=torch.Generator().manual_seed(0)
    ),
    "stream": lambda: DataLoader(_Stream(), 3),
    "iterator": lambda: iter(torch.arange(40.0).view(20, 2).split(3)),
}


@pytest.mark.parametrize("name", _SOURCES)
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_every_batch_is_one_processes(name: str, size: int) -> None:
    whole = list(_SOURCES[name]())
    found: dict[int, Any] = {}
    for rank in range(size):
        share = Share(_Alone(rank, size), _SOURCES[name]())  # type: ignore[arg-type]
        assert torch.equal(share.first, whole[0])
        for number, batch in numbered(share, share):
            assert number % size == rank and number not in found
            found[number] = batch
    assert sorted(found) == list(range(len(whole)))
    assert all(torch.equal(found[i], batch) for i, batch in enumerate(whole))


def test_a_loader_in_order_reads_its_own_images_only() -> None:
    images = _Images()
    share = Share(_Alone(1, 3), DataLoader(images, 2))  # type: ignore[arg-type]
    images.read.clear()
    assert len(list(share)) == 3
    assert images.read == [2, 3, 8, 9, 14, 15]


def test_a_loader_with_random_images_is_read_as_a_whole() -> None:
    images = _Images(noisy=True)
    torch.manual_seed(3)
    whole = list(DataLoader(images, 2))
    torch.manual_seed(3)
    own = list(Share(_Alone(1, 3), DataLoader(images, 2)))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(own, whole[1::3], strict=True))


def test_a_distributed_sampler_is_refused() -> None:
    images = TensorDataset(torch.randn(20, 2))
    sampler = DistributedSampler(images, num_replicas=2, rank=0)
    with pytest.raises(InputError, match="DistributedSampler"):
        Share(_Alone(0, 2), DataLoader(images, 2, sampler=sampler))  # type: ignore[arg-type]


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(InputError, match="no batch"):
        Share(_Alone(0, 2), [])  # type: ignore[arg-type]


def test_rounds_go_on_while_any_process_has_batches_and_keep_to_the_numbers() -> None:
    # Batch 1 gives nothing, batch 5 two parts.
    team = _Alone(1, 2, rounds=4)
    own = [(3, "c"), (5, "e"), (5, "f")]
    assert list(rounds(team, "test", own)) == [[], ["c"], ["e", "f"], []]  # type: ignore[arg-type]


def test_what_is_read_of_a_share_keeps_the_numbers_of_its_batches() -> None:
    reader = BatchReader(parameters_of(torch.nn.Linear(2, 2)))
    data = [torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 2).byte()]
    share, own = shared(_Alone(1, 2), read_by(data, reader))  # type: ignore[arg-type]
    assert next(iter(own)).args[0].shape == (3, 2) and share.index == 1
    with pytest.raises(InputError, match=r"batch 4 has torch\.uint8"):
        list(own)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        ((torch.zeros(2), 1), (torch.zeros(2), 2)),
        ({"a": np.zeros(2)}, {"a": np.ones(2)}),
        (torch.tensor(1.0), torch.tensor(2.0)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
    ],
)
def test_digests_tell_batches_apart(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)
