"""One reading holds for every batch of a source; inputs come in the network's types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from convert.errors import InputError
from convert.graph.batch_reading import BatchReader, read_by
from convert.graph.forward_parameters import Parameters

X, Y = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
MASK = torch.ones(6, 5)
MASKED = Parameters(names=("x", "mask"), required=1, optional=("mask",))
ONE = Parameters(names=("x",), required=1, dtypes=(torch.float32,), dims=(2,))


def test_forms_may_change_where_they_give_the_same_inputs() -> None:
    data = [(X, Y), X, (X, None), {"x": X, "label": Y}, (X, Y, Y), (X[:1], Y[:1])]
    batches = read_by(data, BatchReader(ONE))
    for _ in range(2):
        labels = [given.label is not None for given in batches]
    assert labels == [True, False, False, True, True, True]
    assert len(batches) == 6  # type: ignore[arg-type]
    assert not hasattr(read_by(iter(data), BatchReader(ONE)), "__len__")


@pytest.mark.parametrize(
    "data",
    [
        [(X, MASK, Y), (X, MASK)],
        [(X, Y), (X, MASK, Y)],
        [{"x": X, "mask": MASK}, {"x": X}],
        [X, {"x": X, "mask": MASK}],
    ],
)
def test_other_inputs_than_in_the_first_batch_are_named(data: list[Any]) -> None:
    with pytest.raises(InputError, match=r"batch 2 gives the inputs x.*the first one x"):
        list(read_by(data, BatchReader(MASKED)))


def test_a_label_that_moves_is_named() -> None:
    half = torch.rand(6)
    with pytest.raises(InputError, match="label of batch 2"):
        list(read_by([(X, half, Y), (X, Y, half)], BatchReader(ONE)))


def test_floating_point_inputs_are_cast_with_a_note() -> None:
    reader = BatchReader(ONE)
    for x in (X, X.double(), X.half(), X.double()):
        assert reader.read((x, Y)).args[0].dtype == torch.float32
    assert [note[:13] for note in reader.notes] == ["torch.float64", "torch.float16"]
    # What isn't an image of bytes stays, and is refused when the network is called.
    assert reader.read((X.long(), Y)).args[0].dtype == torch.int64


def test_bytes_are_taken_where_calibration_saw_their_range() -> None:
    images = torch.randint(0, 256, (6, 5), dtype=torch.uint8)
    reader = BatchReader(replace(ONE, ranges=((0.0, 255.0),)))
    assert torch.equal(reader.read(images).args[0], images.float())
    assert "not scaled" in reader.notes[0]
    with pytest.raises(InputError, match=r"uint8 up to .*calibrated on values from -2 to 2.6"):
        BatchReader(replace(ONE, ranges=((-2.0, 2.6),))).read(images)


def test_bytes_and_shares_are_not_mixed() -> None:
    for data in ([X, X.byte()], [X.byte(), X]):
        with pytest.raises(InputError, match=r"batch 2 has torch.\w+ where the first one has"):
            list(read_by(data, BatchReader(ONE)))


def test_inputs_without_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match="no tensor with a batch dimension"):
        BatchReader(ONE).read({"x": 3})
