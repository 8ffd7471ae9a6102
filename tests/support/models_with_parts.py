"""Small models that can't be captured as a whole."""

from typing import Any

import torch
from torch import Tensor, nn

from convert import to_spiking
from convert.parts.model import SpikingParts


class Block(nn.Module):
    """A layer that may be given a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.act = nn.ReLU()

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        y = scale * self.act(self.layer(x))
        return y if mask is None else y * mask


class Asking(nn.Module):
    """Asks for values; its first block is called in two forms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(8, 4)
        self.most = 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        rounds = 0
        while x.abs().max() > 0.01 and rounds < self.most:
            for block in self.blocks:
                x = block(x)
            x = self.blocks[0](x, mask=(x > 0).float())
            rounds += 1
        return self.head(x)

    def predict(self, x: Tensor) -> Tensor:
        """A method of the model's own."""
        return self(x).argmax(1)


class Cell(nn.Module):
    """A recurrent cell that begins without a state."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        y = self.inner(x)
        return torch.tanh(y if state is None else y + self.outer(state))


class Recurrent(nn.Module):
    """A loop of Python's over time around a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = Cell(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state)


QUICK: dict[str, Any] = {"steps": 8, "method": "binary", "progress": False}


def converted(model: nn.Module, data: Any, modules: Any, **settings: Any) -> SpikingParts:
    """The model with spiking parts, fitted in a moment."""
    snn = to_spiking(model.eval(), data, modules=modules, **QUICK | settings)
    assert isinstance(snn, SpikingParts)
    return snn


def same(found: Any, expected: Any) -> None:
    """Asserts that two outputs are the same to rounding."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
