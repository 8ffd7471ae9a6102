"""What torch refuses while a loaded network runs is one line; others' errors stay their own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convert import InputError, evaluate, load, to_spiking


class Picked(nn.Module):
    """Reads rows of a table by numbers that come with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.table(x))


def test_errors_of_torch_are_one_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = torch.randint(0, 4, (6, 2))
    snn = to_spiking(Picked().eval(), rows, steps=2, method="binary", progress=False)
    snn.save(tmp_path / "net.fsnn")
    back = load(tmp_path / "net.fsnn")
    assert torch.equal(back(rows), snn(rows))
    for called in (back, back.original()):
        with pytest.raises(InputError, match="give numbers from 0 to 3"):
            called(rows + 9)
    with pytest.raises(InputError, match="give numbers from 0 to 3"):
        snn(rows + 9)


def test_a_network_without_a_report(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), torch.randn(6, 3)
    snn = to_spiking(model, x, steps=2, method="binary", progress=False)
    snn.report = None
    snn.save(tmp_path / "net.fsnn")
    back = load(tmp_path / "net.fsnn")
    assert back.report is None and torch.equal(back(x), snn(x))
    with pytest.raises(InputError, match="no report"):
        evaluate(back, None, [x], metric="output", progress=False)
