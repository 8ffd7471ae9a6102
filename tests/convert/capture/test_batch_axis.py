"""Where the batch of a model's inputs and outputs lies, told by what it does with a few images."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import CaptureError, InputError
from convert.calls.batch_layout import (
    Batch,
    Layout,
    blocks,
    fresh_sizes,
    parts,
    resized,
)
from convert.calls.call_signature import named
from convert.capture.batch_axis import find_batch, told_by_labels

_NO_STEP_AHEAD = nn.Transformer.generate_square_subsequent_mask


class Net(nn.Module):
    def __init__(self, call: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.call = call

    def forward(self, x: Any, y: Any = None, z: Any = None) -> Any:
        return self.call(self, x) if y is None else self.call(self, x, y)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _found(model: nn.Module, *args: Any, asked: Any = None, **kwargs: Any) -> Batch:
    model.eval()
    return find_batch(model, (args, kwargs), named(model, args, kwargs)[1], asked)


def _axes(batch: Batch) -> list[int | None]:
    """Axes of the outputs."""
    return [None if layout is None else layout.axis for layout in batch.outputs]


def _layer(first: bool = False) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=first)


# As many images as steps, one of both, fewer than are tried.
@pytest.mark.parametrize(("steps", "images"), [(12, 32), (6, 6), (3, 4), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("first", [False, True])
def test_attention_over_time(steps: int, images: int, first: bool) -> None:
    shape = (images, steps, 8) if first else (steps, images, 8)
    for x in (torch.randn(shape), torch.zeros(shape)):
        batch = _found(_layer(first), x)
        assert batch.axes == (0 if first else 1,) and not batch.mixes
        assert batch.outputs == (Layout(0 if first else 1),)
        assert bool(batch.notes) is batch.doubtful is not first


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("steps", [5, 7])
def test_masks_beside_sequences(first: bool, steps: int) -> None:
    x = torch.randn(7, steps, 8) if first else torch.randn(steps, 7, 8)
    axis = 0 if first else 1
    assert _found(_layer(first), x, _NO_STEP_AHEAD(steps)).axes == (axis, None)
    assert _found(_layer(first), x, torch.zeros(steps, steps)).axes == (axis, None)
    padding = torch.zeros(7, steps, dtype=torch.bool)
    padding[:, -1] = True
    assert _found(_layer(first), x, src_key_padding_mask=padding).axes == (axis, 0)


def _recurrent() -> Iterator[Any]:
    for kind in (nn.GRU, nn.LSTM, nn.RNN):
        for first in (False, True):
            for both in (False, True):
                yield kind, first, both


@pytest.mark.parametrize(("kind", "first", "both"), _recurrent())
def test_recurrent_networks_with_and_without_a_state(kind: Any, first: bool, both: bool) -> None:
    # Twice as many states as layers; with as many images as those, and as features, too.
    for steps, images in ((5, 16), (8, 8), (5, 2)):
        cell = kind(8, 8, batch_first=first, bidirectional=both)
        x = torch.randn(images, steps, 8) if first else torch.randn(steps, images, 8)
        axis, state = 0 if first else 1, torch.randn(2 if both else 1, images, 8)
        alone = _found(cell, x)
        assert alone.axes == (axis,) and _axes(alone)[:2] == [axis, 1]
        pair = kind is nn.LSTM
        given = _found(cell, x, (state, state) if pair else state)
        assert given.axes == (axis, 1, 1) if pair else (axis, 1)
        assert not alone.mixes and not given.mixes


def test_queries_and_keys() -> None:
    for queries, keys in ((5, 7), (5, 5), (9, 9)):
        attend = nn.MultiheadAttention(8, 2)
        q, k = torch.randn(queries, 9, 8), torch.randn(keys, 9, 8)
        batch = _found(attend, q, k, k)
        assert batch.axes == (1, 1, 1) and _axes(batch) == [1, 0]
    attend = nn.MultiheadAttention(8, 2, batch_first=True)
    assert _found(attend, torch.randn(9, 5, 8), *[torch.randn(9, 7, 8)] * 2).axes == (0, 0, 0)
    both = nn.Transformer(8, 2, 1, 1, 16)
    assert _found(both, torch.randn(5, 9, 8), torch.randn(6, 9, 8)).axes == (1, 1)


def test_causal_over_time() -> None:
    tokens = torch.randint(0, 50, (7, 14))
    for first in (False, True):
        net = Net(
            lambda net, x: net.head(net.cell(net.table(x))[0]),
            table=nn.Embedding(50, 8),
            cell=nn.GRU(8, 8, batch_first=first),
            head=nn.Linear(8, 3),
        )
        assert _found(net, tokens).axes == (0 if first else 1,)


def test_inputs_without_a_batch() -> None:
    a = nn.Linear(8, 16)
    x = torch.randn(14, 8)
    net = Net(lambda net, x, y: F.relu(net.a(x)) @ y.T, a=a)
    assert _found(net, x, torch.randn(11, 16)).axes == (0, None)
    net = Net(lambda net, x, y: F.relu(net.a(x) + y), a=a)
    assert _found(net, x, torch.tensor(2.0)).axes == (0, None)
    for table in (torch.randn(5, 8), torch.randn(1, 5, 8)):
        net = Net(lambda net, x, y: F.relu(net.a(x + y)), a=a)
        assert _found(net, torch.randn(14, 5, 8), table).axes == (0, None)
    net = Net(lambda net, x, y: net.layer(y, x), layer=_layer(True))
    assert _found(net, _NO_STEP_AHEAD(5), torch.randn(14, 5, 8)).axes == (None, 0)


def test_layouts_of_outputs() -> None:
    x = torch.randn(14, 3, 8)
    a = nn.Linear(8, 4)
    rows = Net(lambda net, x: F.relu(net.a(x)).view(-1, 4), a=a)
    assert _found(rows, x).outputs == (Layout(0, 1, 3),)
    times = Net(lambda net, x: F.relu(net.a(x)).transpose(0, 1).reshape(-1, 4), a=a)
    assert _found(times, x).outputs == (Layout(0, 3, 1),)
    several = Net(lambda net, x: [net.a(x), net.a(x).movedim(0, 2), net.a(x).argmax(-1)], a=a)
    assert _found(several, x).outputs == (Layout(0), Layout(2), None)
    beside = Net(lambda net, x: (net.a(x), net.a.weight.square().mean(), net.a.weight), a=a)
    assert _found(beside, x).outputs == (Layout(0), Layout(None), Layout(None))
    dead = Net(lambda net, x: 0 * net.a(x), a=a)
    assert _found(dead, x) == Batch((0,), (Layout(0),))
    mean = _found(Net(lambda net, x: (net.a(x), net.a(x).mean()), a=a), x)
    assert mean.outputs == (Layout(0), Layout(None, mixes=True)) and not mean.mixes
    assert "output 1" in mean.notes[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x: net.a(x) @ net.a(x).T,
        lambda net, x: net.a(x).softmax(0),
        lambda net, x: F.batch_norm(net.a(x), None, None, training=True),
        lambda net, x: net.a(x) + 1e-4 * x.mean(0)[:4],
        lambda net, x: net.a(x).cumsum(0),
        lambda net, x: net.a(x).sum(0) - net.a(x),
        # No image depends on another here, but on how many there are, or where it stands.
        lambda net, x: net.a(x) / x.shape[0],
        lambda net, x: net.a(x) + torch.arange(x.shape[0])[:, None],
    ],
)
def test_mixed_images(call: Callable[..., Any]) -> None:
    batch = _found(Net(call, a=nn.Linear(8, 4)), torch.randn(14, 8))
    assert batch.axes == (0,) and batch.mixes
    layout = batch.outputs[0]
    assert layout is not None and layout.axis == 0 and layout.mixes
    assert "axis 0 of x" in batch.notes[0]


def test_steps_that_are_told_apart_by_their_place_alone() -> None:
    places = torch.randn(20, 1, 8)
    net = Net(lambda net, x: F.relu(net.a(x + places[: x.shape[0]])), a=nn.Linear(8, 4))
    assert _found(net, torch.randn(12, 9, 8)).axes == (1,)


def test_pairs_of_all_images_of_two_inputs() -> None:
    net = Net(lambda net, x, y: net.a(x) @ net.b(y).T, a=nn.Linear(8, 4), b=nn.Linear(6, 4))
    batch = _found(net, torch.randn(14, 8), torch.randn(14, 6))
    assert batch.axes == (0, 0) and batch.mixes
    assert batch.outputs == (Layout(0, mixes=True, varies=True),)


def test_evidence_against_each_other_is_refused() -> None:
    conv = nn.Conv2d(3, 4, 3)
    last = Net(lambda net, x: net.a(x.permute(3, 0, 1, 2)).permute(1, 2, 3, 0), a=conv)
    x = torch.randn(3, 8, 8, 14)
    with pytest.raises(CaptureError, match="batch_axis=3"):
        _found(last, x)
    for asked in (3, -1, {"x": 3}):
        assert _found(last, x, asked=asked).axes == (3,)
    both = Net(lambda net, x: (lambda h: (h, h @ h.T))(net.cell(x)[0][-1]), cell=nn.GRU(8, 4))
    with pytest.raises(CaptureError, match=r"axis 0 of x .* batch_axis="):
        _found(both, torch.randn(5, 14, 8))
    assert _found(both, torch.randn(5, 14, 8), asked=1).mixes


def test_what_a_user_says() -> None:
    cell, x, state = nn.GRU(8, 8), torch.randn(12, 32, 8), torch.randn(1, 32, 8)
    for asked in (1, {"input": 1}, {"hx": 1}, {"input": 1, "hx": -2}):
        assert _found(cell, x, state, asked=asked).axes == (1, 1)
    assert _found(_layer(), torch.randn(6, 6, 8), _NO_STEP_AHEAD(6), asked=1).axes == (1, None)
    assert _found(_layer(), x, asked=0).mixes
    for asked, told in (
        (7, r"input \[12, 32, 8\]"),
        ({"hy": 1}, "takes hx, input"),
        ({"hx": 5}, "no axis 5"),
        ({"input": 0, "hx": 1}, "different lengths: input: 12, hx: 32"),
        ({"input": None, "hx": None}, "no input with a batch"),
    ):
        with pytest.raises(InputError, match=told):
            _found(cell, x, state, asked=asked)


def test_a_model_that_refuses_is_left_to_the_capture() -> None:
    assert _found(nn.Linear(5, 3), torch.randn(4, 8)) == Batch((0,))


def test_tensors_in_order() -> None:
    t = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(Layout(1).by_image(t), t.transpose(0, 1))
    rows = t.flatten(0, 1)
    together, apart = Layout(0, 1, 3), Layout(0, 2, 1)
    assert torch.equal(together.by_image(rows), t.transpose(1, 2))
    assert torch.equal(together.one_by_one(rows), rows)
    assert torch.equal(apart.by_image(rows), t.permute(1, 2, 0))
    assert torch.equal(apart.one_by_one(rows), t.transpose(0, 1))
    assert torch.equal(Layout(None).by_image(t), t)
    assert list(blocks(12, 3)) == [(1, 4), (4, 1), (2, 2)] and not list(blocks(5, 3))
    assert fresh_sizes({3, 4, 2}) == (5, 6) and fresh_sizes(set()) == (3, 2)
    x, state = torch.arange(6).view(2, 3), torch.arange(3).view(1, 1, 3)
    given: list[Tensor | str] = [x, "flag", state]
    found = resized(given, (1, None, 2), 4)
    assert found[0].tolist() == [[0, 1, 2, 0], [3, 4, 5, 3]] and found[1] == "flag"
    assert found[2].tolist() == [[[0, 1, 2, 0]]]
    assert [p[0].shape[1] for p in parts(given, (1, None, 2), [2, 1])] == [2, 1]


def _groups(net: Net, x: Tensor, *, apart: bool, second: bool) -> Tensor:
    """Differences within groups of four images: those that follow each other, or every other."""
    x = net.layer(x.transpose(0, 1) if second else x)
    groups = x.unflatten(0, (-1, 4) if apart else (4, -1))
    axis = 1 if apart else 0
    x = (groups - groups.mean(axis, keepdim=True)).flatten(0, 1)
    x = x.transpose(0, 1) if second else x
    return x.cumsum(0)[-1] if second else x


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_batches_of_a_multiple(apart: bool, second: bool) -> None:
    x = torch.randn(5, 8, 3) if second else torch.randn(8, 3)
    model = Net(lambda net, x: _groups(net, x, apart=apart, second=second), layer=nn.Linear(3, 3))
    batch = _found(model, x, asked=1 if second else None)
    assert batch.axes == (1 if second else 0,) and batch.unit == (0 if second else 4)
    # Where as many images as were tried first are one group, more can't be said.
    assert batch.mixes is not (apart and not second)
    assert _axes(batch) == [0]


def test_images_that_become_one_are_mixed() -> None:
    model = Net(lambda net, x: net.layer(x.unflatten(0, (-1, 4)).mean(1)), layer=nn.Linear(3, 3))
    batch = _found(model, torch.randn(8, 3))
    assert batch.mixes and _axes(batch) == [None] and batch.unit == 4
    pairs = Net(lambda net, x, y: (x + y).unflatten(0, (-1, 2)).mean(1))
    assert all(n.rows for n in _found(pairs, torch.randn(6, 3), torch.randn(6, 3)).outputs if n)


def test_rows_that_one_axis_leaves_out_and_another_mixes() -> None:
    model = Net(
        lambda net, x: net.layer(x - x.mean(1, keepdim=True)).cumsum(0)[-1], layer=nn.Linear(3, 3)
    )
    with pytest.raises(CaptureError, match="say which is the images' by batch_axis="):
        _found(model, torch.randn(5, 8, 3))


def test_labels_speak_for_another_axis() -> None:
    x = torch.randn(5, 8, 3)
    found = Batch((0,))
    for label in (torch.zeros(8), torch.zeros(8, 1), np.zeros(8), [0] * 8):
        doubted = told_by_labels(found, [x], ["x"], label)
        assert doubted.doubtful and "batch_axis=1" in doubted.notes[0]
    for label in (None, torch.zeros(5), torch.zeros(8, 5), torch.zeros(40), "8", {"label": 8}):
        assert told_by_labels(found, [x], ["x"], label) is found
