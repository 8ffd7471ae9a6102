"""The parts of a model that can be captured, and the call that converts them."""

from typing import Any

import pytest
import torch
from support.models_with_parts import Asking
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from convert import CaptureError, InputError, to_spiking
from convert.capture.capturable_parts import advice, capturable


def test_the_outermost_parts_that_spike() -> None:
    model = Asking().eval()
    assert capturable(model, (torch.randn(4, 3),), {}) == ["stem", "blocks.*"]
    call = 'convert its parts: to_spiking(model, data, modules=["stem", "blocks.*"])'
    assert advice(model, (), {"x": torch.randn(4, 3)}) == call
    assert advice(nn.Sequential(nn.Linear(3, 3)), (torch.randn(4, 3),), {}) == ""


class Packed(nn.Module):
    """Packs its sequences, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[1])
        packed = pack_padded_sequence(self.stem(x), lengths, batch_first=True)
        return self.head(self.lstm(packed)[1][0][-1])


class Looping(nn.Module):
    """Goes on until its values are small."""

    def __init__(self) -> None:
        super().__init__()
        body = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh())
        self.body = nn.ModuleDict({"a": body})
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 0.1:
            x = 0.5 * self.body["a"](x)
        return self.out(x)


class Nested(nn.Module):
    """Takes a list of images, and can be captured two levels down."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Looping()
        self.last = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    def forward(self, images: list[Tensor]) -> Tensor:
        return self.last(self.inner(torch.stack([image.mean((1, 2)) for image in images])))


@pytest.mark.parametrize(
    ("model", "batch", "parts"),
    [
        (Packed(), torch.randn(4, 5, 3), '"stem", "head"'),
        (Looping(), torch.randn(4, 3), '"body.a"'),
        (Nested(), [torch.rand(3, 4, 5), torch.rand(3, 6, 4)], '"inner.body.a", "last"'),
    ],
    ids=["packed sequences", "a loop over values", "a list of images"],
)
def test_the_error_prints_the_call(model: nn.Module, batch: Any, parts: str) -> None:
    with pytest.raises((CaptureError, InputError)) as found:
        to_spiking(model.eval(), [batch], method="binary", progress=False)
    message = str(found.value)
    assert message.endswith(f"to_spiking(model, data, modules=[{parts}])")
    assert message.count("modules=") == 1 and "\n" not in message
    names = [name.strip('"') for name in parts.split(", ")]
    snn = to_spiking(model, [batch], modules=names, method="binary", progress=False)
    assert len(snn.sites) == len(names)
