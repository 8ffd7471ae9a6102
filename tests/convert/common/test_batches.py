"""Batches can be read twice, or are read ahead, in order; an error comes where it belongs."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from convert.common import batches as module
from convert.common import torch_threads as openmp
from convert.common.batches import ahead, batches_of, batches_once
from convert.errors import CalibrationError, InputError


def test_can_be_read_twice() -> None:
    x = torch.arange(300.0)[:, None]
    parts = batches_of(x)
    assert [len(part) for part in parts] == [128, 128, 44]
    assert torch.equal(torch.cat(list(parts)), x)
    assert batches_of({"x": x}) == [{"x": x}]
    listed = [x, x]
    assert batches_of(listed) is listed
    once = batches_of(iter([1, 2]))
    assert list(once) == list(once) == [1, 2]


def test_an_iterator_too_large_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 100)
    assert len(list(batches_of(torch.zeros(10) for _ in range(2)))) == 2
    with pytest.raises(CalibrationError, match="DataLoader"):
        batches_of(torch.zeros(10) for _ in range(3))


@pytest.mark.parametrize("bad", [torch.zeros(0, 3), torch.tensor(1.0), 7, None])
def test_what_is_no_calibration_data(bad: object) -> None:
    with pytest.raises(CalibrationError, match=r"calibration (tensor|data)"):
        batches_of(bad)


def test_read_once() -> None:
    assert list(batches_once(iter([1, 2]))) == [1, 2]
    assert len(list(batches_once(torch.zeros(130, 2)))) == 2
    with pytest.raises(InputError, match="test data is a int"):
        batches_once(7)


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
