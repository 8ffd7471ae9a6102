"""Models of every kind with some of their modules converted."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from support.models_with_parts import QUICK, Asking, Block, converted, same
from torch import Tensor, nn

from convert import CalibrationError, CaptureError, InputError, SiteError, to_spiking

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def _agrees(model: nn.Module, modules: Any, data: Any = (X,), **settings: Any) -> Any:
    """The converted model, whose exact parts give the model's outputs."""
    snn = converted(model, list(data), modules, **settings)
    with torch.no_grad(), snn.spiking_only(()):
        for x in data:
            same(snn(x), model(x))
    return snn


class Trees(nn.Module):
    """Takes and returns lists, dicts, numbers and None."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, xs: list[Tensor], *, options: dict[str, Any]) -> OrderedDict[str, Any]:
        y = torch.relu(self.layer(xs[0])) * options["scale"]
        return OrderedDict(first=y, none=None, more=[xs[1], 3], inner={"sum": y + 1})


class WithTrees(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Trees()

    def forward(self, x: Tensor) -> Tensor:
        found = self.part([x, 2 * x], options={"scale": 2.0, "on": True})
        assert type(found) is OrderedDict and found["none"] is None and found["more"][1] == 3
        return found["first"] + found["more"][0] + found["inner"]["sum"]


def test_arguments_and_outputs_of_every_form() -> None:
    _agrees(WithTrees(), ["part"])


def test_a_shared_module_is_converted_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
            self.b = self.a

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) - 0.1)

    snn = _agrees(Twice(), ["b"])
    assert list(snn.parts) == ["a"] and snn.module.a is snn.module.b
    assert snn.report.parts[0].calls == 2.0


def test_what_the_model_asks_of_a_module_is_still_there() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
            self.part.width = 3

        def forward(self, x: Tensor) -> Tensor:
            scale = self.part[0].weight.dtype.itemsize if self.part else 0
            return self.part.forward(x) * self.part.width + scale * len(self.part)

    snn = _agrees(Asks(), ["part"])
    with torch.no_grad(), snn.count_spikes() as spikes:
        snn(X)
    assert spikes["part.1"] > 0  # a call of .forward is one of the part


class InPlace(nn.Module):
    """Its part writes to its input, which is read afterwards or not."""

    def __init__(self, read: bool) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3), nn.Tanh())
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        x = 1.0 * x
        y = self.part(x)
        return x + y if self.read else y


def test_a_part_that_writes_to_its_input() -> None:
    _agrees(InPlace(read=False), ["part"])
    with pytest.raises(CaptureError, match="part changes its input in place, which the model read"):
        converted(InPlace(read=True), [X], ["part"])


def test_lengths_vary_as_the_data_shows_or_as_is_asked() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.block = nn.Embedding(20, 8), Block()

        def forward(self, ids: Tensor) -> Tensor:
            x = self.block(self.table(ids))
            return x if float(x.detach().sum()) > -1e9 else -x

    model, ids = Text(), torch.randint(20, (4, 9))
    shown = _agrees(model, ["block"], [ids, ids[:, :6]])
    asked = _agrees(model, ["block"], [ids], dynamic={"ids": {1: "length"}})
    fixed = _agrees(model, ["block"], [ids])
    for snn in (shown, asked):
        with torch.no_grad():
            assert snn(ids[:2, :3]).shape == (2, 3, 8)
    with pytest.raises(InputError, match=r"the part block: it gets x \[2, 3, 8\], of a length"):
        fixed(ids[:2, :3])
    for wrong, match in (
        ({"tokens": [1]}, "dynamic= names an input 'tokens'; the model takes ids"),
        ({"ids": [2]}, r"dynamic=: ids \[4, 9\] has no axis 2"),
    ):
        with pytest.raises(InputError, match=match):
            converted(model, [ids], ["block"], dynamic=wrong)


def test_globs_leave_what_cant_spike_and_names_dont() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.idle, self.layer = nn.ReLU(), nn.Tanh(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.act(x))

    snn = _agrees(Mixed(), ["*"])
    assert list(snn.parts) == ["act"]
    assert "never called on the calibration data, and left as they are: idle" in snn.report.notes
    assert "without a nonlinear function, and left as they are: layer" in snn.report.notes
    with pytest.raises(SiteError, match="the part layer: the model has no nonlinear"):
        converted(Mixed(), [X], ["layer"])
    with pytest.raises(CalibrationError, match="the part idle is never called"):
        converted(Mixed(), [X], ["act", "idle"])
    with pytest.raises(InputError, match=r"chooses no module that is called .* it chose idle"):
        converted(Mixed(), [X], ["id*"])


def test_a_part_that_cant_be_captured_names_what_in_it_can() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            return y if y.sum() > 1 else 2 * y

    model = nn.Sequential(OrderedDict(outer=Branching()))
    call = r'to_spiking\(model, data, modules=\["outer.stem"\]\)'
    with pytest.raises(CaptureError, match=f"the part outer: .*{call}"):
        converted(model, [X], ["outer"])


@pytest.mark.parametrize("modules", [[], [3], {"a": 1}, [""], 5])
def test_what_names_no_module_is_refused(modules: Any) -> None:
    with pytest.raises(InputError, match="modules"):
        to_spiking(Asking(), [X], modules=modules, **QUICK)


def test_data_that_the_model_doesnt_take() -> None:
    with pytest.raises(CaptureError, match=r"refuses the first calibration batch at .*models_with"):
        converted(Asking(), [torch.randn(4, 5)], ["stem"])
    with pytest.raises(CalibrationError, match="yields no batch"):
        converted(Asking(), [], ["stem"])
    with pytest.raises(CaptureError, match="different outputs for the same input"):
        converted(Noisy(), [X], ["0"])


class Noisy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(1)


def test_warnings_name_the_part_and_the_users_line() -> None:
    model = nn.Sequential(OrderedDict(act=nn.ReLU(), norm=nn.Softmax(-1))).train()
    with pytest.warns(UserWarning) as caught:
        to_spiking(model, [X], modules=["norm"], **QUICK | {"steps": 1})
    messages = [str(warning.message) for warning in caught]
    assert any("training mode" in message for message in messages)
    assert any(message.startswith("norm: K = 1: relative output error") for message in messages)
    assert {warning.filename for warning in caught} == {__file__}
