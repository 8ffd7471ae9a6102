"""Every plain form of batch is read as what it is, and what is read otherwise is told."""

from __future__ import annotations

import dataclasses
from collections import UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convert.errors import InputError
from convert.graph.batch_forms import Given, read_batch
from convert.graph.forward_parameters import Parameters, parameters_of

X = torch.randn(6, 3, 4, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
T = torch.rand(6)
IDS = torch.randint(0, 9, (6, 5))
MASK = torch.ones(6, 5)
Images = namedtuple("Images", ["images", "targets"])
Pair = namedtuple("Pair", ["a", "b"])


class Like(UserDict[str, Any]):
    """As the batches of a tokenizer are."""


class Keyed:
    """Something with keys that is no mapping."""

    def keys(self) -> list[str]:
        return ["image", "label"]

    def __getitem__(self, key: str) -> Tensor:
        return {"image": X, "label": Y}[key]


@dataclasses.dataclass
class Batch:
    pixels: Tensor
    labels: Tensor


def taken(text: str) -> Parameters:
    """What a forward with these parameters takes."""
    scope: dict[str, Any] = {}
    exec(f"def forward(self, {text}): ...", scope)
    return parameters_of(type("Model", (nn.Module,), {"forward": scope["forward"]})())


def read(batch: Any, parameters: str = "x") -> Given:
    return read_batch(batch, taken(parameters))


@pytest.mark.parametrize(
    ("batch", "labelled", "told"),
    [
        (X, False, ""),
        ([X], False, ""),
        ((X, Y), True, ""),
        ([X, Y], True, ""),
        ((X, None), False, ""),
        ({"x": X}, False, ""),
        ({"x": X, "label": Y}, True, ""),
        ({"image": X, "label": Y}, True, "'image' of a batch was read as the input 'x'"),
        ({"Image": X, "Label": Y}, True, "'Image'"),
        ({"pixel_values": X, "labels": Y}, True, "'pixel_values'"),
        ({"data": X, "target": Y}, True, "'data'"),
        ({"input": X, "y": Y, "path": ["a"] * 6}, True, "path of a batch was left out"),
        ({"what": X, "class": Y}, True, "'what'"),
        ({"image": X, "mask": Y}, True, "'mask' of a batch was read as the label"),
        (Like(x=X, labels=Y), True, ""),
        (Keyed(), True, "'image'"),
        (Batch(X, Y), True, "'pixels'"),
        (Images(X, Y), True, "'images'"),
        (Pair(X, Y), True, ""),
        ((X.numpy(), Y.numpy()), True, ""),
        ((X.numpy().astype(">f4"), Y.tolist()), True, ""),
        ({"image": X.numpy(), "label": Y.numpy()}, True, "'image'"),
        ((torch.arange(6), X, Y), True, "first element of a batch is no input"),
        ((list(range(6)), X, Y), True, "first element of a batch is no input"),
        ((["a"] * 6, X, Y), True, "first element of a batch is no input"),
        ((X, {"path": ["a"] * 6}, Y), True, "second element was left out"),
        ((X, ["a"] * 6, Y), True, "second element was left out"),
        ((X, T, Y), True, "second element was left out"),
        ((X, Y, T), True, "third element was left out"),
        ((X, {"path": ["a"] * 6}), False, "second element was left out"),
        (([X], {"boxes": T}), False, "second element was left out"),
        (([X], {"labels": Y}), True, ""),
        (([*X], Y), True, "put together into one tensor"),
        ((tuple(X), Y.tolist()), True, "put together into one tensor"),
        ([*X], False, "list of single images"),
        ([(x, int(y)) for x, y in zip(X, Y, strict=True)], True, "put together"),
        ([{"x": x, "label": y} for x, y in zip(X, Y, strict=True)], True, "put together"),
    ],
)
def test_one_input(batch: Any, labelled: bool, told: str) -> None:
    given = read(batch)
    (found,) = (*given.args, *given.kwargs.values())
    assert torch.equal(found, X) and given.names == ("x",)
    if labelled:
        label = given.label if isinstance(given.label, dict) else {"labels": given.label}
        assert torch.equal(torch.as_tensor(label["labels"]), Y)
    else:
        assert given.label is None
    assert told in "; ".join(given.notes) and bool(told) == bool(given.notes)


@pytest.mark.parametrize(
    ("parameters", "batch", "names", "label"),
    [
        ("ids, mask=None", (IDS, MASK, Y), ("ids", "mask"), Y),
        ("ids, mask=None", (IDS, MASK.bool(), Y), ("ids", "mask"), Y),
        ("ids, mask=None", (IDS, MASK, None), ("ids", "mask"), None),
        ("ids, mask=None", (IDS, Y), ("ids",), Y),
        ("ids, mask=None", (IDS, Y, T), ("ids",), Y),
        # One-hot rows of another width than the ids are no mask.
        ("ids, mask=None", (IDS, torch.eye(6), T), ("ids",), torch.eye(6)),
        ("ids, mask=None, labels=None", (IDS, MASK, Y), ("ids", "mask"), Y),
        ("ids, mask=None, types=None", (IDS, MASK, IDS, Y), ("ids", "mask", "types"), Y),
        ("x, lengths=None", (X, Y + 1, Y), ("x", "lengths"), Y),
        ("x, lengths=None", (X, Y, T), ("x",), Y),
        ("x, targets=None", (X, Y), ("x",), Y),
        ("x, targets=None", (X, Y, T), ("x",), Y),
        ("x, y=None", (X, Y), ("x",), Y),
        ("x, train=False", (X, T, Y), ("x",), Y),
        ("x, t", (X, T), ("x", "t"), None),
        ("x, t", (X, T, Y), ("x", "t"), Y),
        ("x, t", ((X, T), Y), ("x", "t"), Y),
        ("x, t, y=None", (X, T, Y), ("x", "t"), Y),
        ("x, *, k", (X, T, Y), ("x", "k"), Y),
        ("x, mask=None", ((X, MASK), Y), ("x", "mask"), Y),
        ("x, mask=None", ([X], {"mask": MASK}), ("x", "mask"), None),
        ("x, mask=None", ([X], {"mask": MASK, "label": Y}), ("x", "mask"), Y),
        ("x, mask=None", {"image": X, "mask": MASK, "label": Y}, ("x", "mask"), Y),
        ("x, labels=None", {"x": X, "labels": Y}, ("x",), Y),
        ("x, labels=None", {"x": X, "labels": None}, ("x",), None),
        ("x, y=None", {"x": X, "y": Y}, ("x",), Y),
        ("x, y=None", ({"x": X, "y": T}, Y), ("x", "y"), Y),
        ("x, y", {"x": X, "y": T, "label": Y}, ("x", "y"), Y),
        ("x, y", {"y": T, "x": X}, ("x", "y"), None),
        ("x, **extra", {"x": X, "gate": T, "label": Y}, ("x", "gate"), Y),
        ("x, *args, **kwargs", {"img": X, "cls": Y, "bboxes": T}, ("x",), Y),
        ("*args, **kwargs", (X, Y), ("input0",), Y),
        ("*args, **kwargs", {"x": X, "label": Y}, ("x",), Y),
        ("pixel_values=None, labels=None", {"image": X, "labels": Y}, ("pixel_values",), Y),
        ("features", (({"a": X, "b": X},), Y), ("features",), Y),
        ("features: dict", {"a": X, "b": X, "label": Y}, ("features",), Y),
    ],
)
def test_what_forward_takes_decides(
    parameters: str, batch: Any, names: tuple[str, ...], label: Tensor | None
) -> None:
    given = read(batch, parameters)
    assert given.names == names
    found = given.label["label"] if isinstance(given.label, dict) else given.label
    assert found is label or torch.equal(torch.as_tensor(found), label)


@pytest.mark.parametrize(
    ("parameters", "batch"),
    [
        ("ids, mask=None", (IDS, MASK, Y)),
        ("ids, mask=None", (IDS, MASK)),
        ("ids, mask=None", (IDS, Y, T)),
        ("x, lengths=None", (X, Y + 1, Y)),
        ("x, lengths=None", (X, Y)),
        ("x, y=None", {"x": X, "y": Y}),
    ],
)
def test_an_optional_input_is_never_dropped_in_silence(parameters: str, batch: Any) -> None:
    notes = "; ".join(read(batch, parameters).notes)
    assert parameters.partition("=")[0].split()[-1] in notes


@pytest.mark.parametrize(
    ("parameters", "batch", "named"),
    [
        ("x", 5, r"holds a int.*\(x, label\)"),
        ("x", (), "empty tuple"),
        ("x", {}, "without names"),
        ("x", {1: X}, "without names"),
        ("x", {"a": X, "b": X}, "keys a, b.*'x'.*\\(x, label\\)"),
        ("x, t", {"image": X, "label": Y}, r'takes x, t; give.*"t": t'),
        ("x, t", {"x": X}, "none is sure to be the input 't'"),
        ("x, t", X, r"one tensor.*2 inputs.*\(x, t, label\)"),
        ("x, t", (X,), "1 elements.*2 inputs"),
        ("x, t", ([X], Y), "gives x, but not t"),
        ("x", (["a"] * 6, Y), "list of str"),
        ("x", [torch.ones(8)] * 5, r"5 tensors \[8\].*torch.stack"),
        ("x", [torch.ones(3, 8, 8), torch.ones(3, 9, 8), torch.ones(3, 8, 8)], "several sizes"),
        ("x", [(torch.ones(3, 8, 8), 1), (torch.ones(3, 9, 8), 1)], "resize them to one"),
    ],
)
def test_what_can_not_be_read_is_one_line(parameters: str, batch: Any, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        read(batch, parameters)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_converted_network_knows_the_shapes() -> None:
    parameters = Parameters(names=("x",), required=1, dims=(2,), dtypes=(torch.float32,))
    x = torch.randn(5, 8)
    for batch in ([*x], (torch.arange(5), x, x), ([*x], [1] * 5), (["a"] * 5, x)):
        given = read_batch(batch, parameters)
        assert torch.equal(given.args[0], x) and given.notes


def test_arrays_that_torch_does_not_take_as_they_are() -> None:
    x = np.arange(12.0).reshape(3, 4)
    x.flags.writeable = False
    for array in (x, x[:, ::-1], x.astype(">f8"), x.T):
        (found,) = read(array).args
        assert np.array_equal(found.numpy(), array)
