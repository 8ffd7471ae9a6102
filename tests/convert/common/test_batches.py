"""Batches are read ahead, in order, and an error comes where it belongs."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from convert.common import torch_threads as openmp
from convert.common.batches import ahead


def test_same_batches_in_order() -> None:
    assert list(ahead(iter(range(50)))) == list(range(50))
    assert list(ahead([])) == []


def test_reads_while_the_last_one_is_worked_on() -> None:
    read: list[int] = []

    def data() -> Iterator[int]:
        for i in range(3):
            read.append(i)
            yield i

    batches = ahead(data())
    assert next(batches) == 0
    deadline = time.monotonic() + 10
    while len(read) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(read) >= 2
    batches.close()  # type: ignore[attr-defined]


def test_an_error_comes_after_the_batches_before_it() -> None:
    def data() -> Iterator[int]:
        yield 1
        raise OSError("broken image")

    batches = ahead(data())
    assert next(batches) == 1
    with pytest.raises(OSError, match="broken image"):
        next(batches)


def test_reads_in_one_thread_and_leaves_the_others_to_the_work() -> None:
    before = torch.get_num_threads()

    def data() -> Iterator[int]:
        for _ in range(3):
            torch.randn(1_000_000).relu()
            yield torch.get_num_threads()

    seen = list(ahead(data()))
    assert torch.get_num_threads() == before
    if openmp.loaded() is not None:
        assert seen == [1, 1, 1]


def test_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    batches = ahead(iter(range(1000)))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
