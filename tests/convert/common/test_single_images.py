"""Data that comes image by image is put into batches; batches are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from convert.common.batches import batches_of, batches_once
from convert.common.single_images import BATCH, gathered
from convert.errors import InputError

X, Y = torch.randn(BATCH + 9, 3, 4, 4), torch.arange(BATCH + 9)


class Dicts(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": X[index], "label": int(Y[index])}


class Stream(IterableDataset[Any]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        if self.size:
            return zip(X.split(self.size), Y.split(self.size), strict=True)
        return zip(X, Y.tolist(), strict=True)


class Numbered:
    """No data set by its class, and nothing that can be iterated over by protocol."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        if index >= len(X):
            raise IndexError
        return X[index], int(Y[index])


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(X, Y),
        Dicts(),
        Stream(0),
        Numbered(),
        list(zip(X, Y.tolist(), strict=True)),
        (X, Y),
        [X, Y],
        (X.numpy(), Y.numpy()),
        DataLoader(TensorDataset(X, Y), batch_size=None),
    ],
)
def test_batches_are_made(data: Any) -> None:
    batches = gathered(data)
    for _ in range(2):
        sizes = []
        for batch in batches:
            x, y = batch.values() if isinstance(batch, dict) else batch
            sizes.append(len(x))
            assert torch.equal(torch.as_tensor(x), X[torch.as_tensor(y)])
        assert sizes == [BATCH, 9]


def test_an_iterator_of_single_images() -> None:
    for read in (batches_of, batches_once):
        assert [len(x) for x, _ in read(zip(X, Y.tolist(), strict=True))] == [BATCH, 9]
    kept = batches_of(zip(X, Y.tolist(), strict=True))
    assert [len(list(kept)) for _ in range(2)] == [2, 2]


@pytest.mark.parametrize(
    "data",
    [
        [(X, Y)],
        [(X[:2], Y[:2]), (X[2:], Y[2:])],
        [X[:1], X[1:2]],
        [X.flatten(1), X.flatten(1)],
        [(X, 0)],
        [(X[:1], Y[0])],
        [{"image": X, "label": Y}],
        DataLoader(TensorDataset(X, Y), batch_size=5),
    ],
)
def test_batches_are_left_alone(data: Any) -> None:
    assert gathered(data) is data


def test_a_data_set_of_batches() -> None:
    assert [len(x) for x, _ in gathered(Stream(100))] == [100, 37]


def test_images_that_can_not_be_put_together() -> None:
    data = [(torch.ones(3, n, n), 0) for n in (4, 5)]
    with pytest.raises(InputError, match="one size"):
        list(gathered(data))
    pictures = [(Image.new("RGB", (4, 4)), 0)] * 2
    with pytest.raises(InputError, match=r"PIL images.*ToTensor\(\)"):
        list(gathered(pictures))
