"""What a model calls its parts with, kept or recorded anew."""

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from support.models_with_parts import Asking, Recurrent, converted, same
from torch import Tensor, nn

from convert import CalibrationError, CaptureError, InputError
from convert.calls.batch_forms import Given
from convert.parts import recording as recordings
from convert.parts.chosen import choose
from convert.parts.recording import Recording
from convert.parts.whole_calls import image_count

DATA = [torch.randn(6, 3), torch.randn(4, 3)]


def _recording(model: nn.Module, wanted: list[Any], data: Iterable[Tensor] = DATA) -> Recording:
    parts, _ = choose(model, wanted)
    return Recording(model.eval(), parts, [Given((x,), {}) for x in data], None, image_count)


def test_all_calls_of_all_parts_are_recorded_by_form() -> None:
    torch.manual_seed(0)
    recording = _recording(Asking(), ["stem", "blocks.*"])
    found = recording.record()
    assert {name: [r.count for r in forms] for name, forms in found.items()} == {
        "stem": [2], "blocks.0": [4, 4], "blocks.1": [4],
    }  # fmt: skip
    assert (recording.images, recording.runs) == (10, 2)
    (stem,) = found["stem"]
    assert [given.args[0].shape for given in recording.calls(stem)] == [(6, 3), (4, 3)]
    assert torch.equal(stem.first.args[0], DATA[0])


def test_what_is_too_much_to_keep_is_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Asking().eval()
    kept = _recording(copy.deepcopy(model), ["blocks.*"])
    known = kept.record()["blocks.0"][1]
    expected = [given.args[1] for given in kept.calls(known)]
    monkeypatch.setattr(recordings, "KEPT_BYTES", 100)
    recording = _recording(model, ["blocks.*"])
    streamed = recording.record()["blocks.0"][1]
    assert streamed.calls is None and streamed.count == known.count == len(expected)
    for _ in range(2):  # as often as one likes
        found = [given.args[1] for given in recording.calls(streamed)]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_inputs_are_those_before_anybody_writes_to_them() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = 1.0 * x
            y = self.part(x)
            x.zero_()
            return y + x

    recording = _recording(Writes(), ["part"])
    (part,) = recording.record()["part"]
    found = [given.args[0] for given in recording.calls(part)]
    assert all(torch.equal(a, b) for a, b in zip(found, DATA, strict=True))


class Alias(nn.Module):
    """Calls its part by a list of Python's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.others = [self.part]

    def forward(self, x: Tensor) -> Tensor:
        return self.others[0](self.part(x))


class Counting(nn.Module):
    """Gives its part another number each time."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Scaled()

    def forward(self, x: Tensor) -> Tensor:
        for t in range(12):
            x = self.part(x, scale=t / 10)
        return self.part(x, scale=1.0)


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: float) -> Tensor:
        return torch.relu(x) * scale


class Unused(nn.Module):
    """Never calls one module, gives an object to another, and no tensor to a third."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.odd, self.empty = nn.ReLU(), Odd(), Odd()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        self.empty(3)
        return self.act(x) + self.odd(x, object())


class Odd(nn.Module):
    def forward(self, x: Any, other: Any = None) -> Any:
        return x


@pytest.mark.parametrize(
    ("model", "part", "error", "match"),
    [
        (Alias(), "part", CaptureError, "calls the module part by another way than its name"),
        (Counting(), "part", InputError, r"more than 8 forms: scale differs .*0\.0, 0\.1"),
        (Unused(), "idle", CalibrationError, "idle is never called while Unused runs"),
        (Unused(), "odd", InputError, "called with other, a object, which no graph can hold"),
        (Unused(), "empty", InputError, "empty is called with no tensor"),
    ],
)
def test_parts_that_cant_be_are_refused(
    model: nn.Module, part: str, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match) as found:
        converted(model, DATA, [part])
    assert "\n" not in str(found.value)


def test_a_recurrent_wrapper_at_any_length() -> None:
    model = Recurrent()
    snn = converted(model, [torch.randn(6, 4, 3), torch.randn(5, 6, 3)], ["cell"])
    assert list(snn.parts) == ["cell", "cell#2"]  # without a state, and with one
    assert [row.calls for row in snn.report.parts] == [1.0, 4.0]
    x = torch.randn(2, 9, 3)
    with torch.no_grad(), snn.spiking_only(()):
        same(snn(x), model(x))


def test_a_part_without_a_batch_axis() -> None:
    class OneByOne(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.head(self.cell(row)) for row in x])

    model = OneByOne()
    snn = converted(model, [torch.randn(6, 3)], ["cell"])
    assert [row.alone for row in snn.report.parts] == [True]
    x = torch.randn(3, 3)
    with torch.no_grad(), snn.spiking_only(()):
        same(snn(x), model(x))
