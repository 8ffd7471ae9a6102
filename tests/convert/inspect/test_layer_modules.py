"""Every kind of weights that torch has a module for is one, and counts as such."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from torch import Tensor, nn

from convert import InputError, to_spiking
from convert.inspect import as_spiking_module, simulate


class Between(nn.Module):
    """ReLU, one operation with weights, ReLU, and a sum."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation
        self.own = nn.Parameter(torch.randn(6, 5))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.operation(torch.relu(x))).flatten(1).sum(1)


class Written(Between):
    """The same with a matrix of its own."""

    def __init__(self, way: str) -> None:
        super().__init__(nn.Identity())
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        if self.way == "matmul":
            return torch.relu(x @ self.own)
        if self.way == "mm":
            return torch.relu(torch.mm(x, self.own))
        if self.way == "addmm":
            return torch.relu(torch.addmm(self.bias, x, self.own))
        if self.way == "einsum":
            return torch.relu(torch.einsum("ni,io->no", x, self.own))
        if self.way == "left":
            return torch.relu(torch.matmul(self.own.t(), x.t()).t())
        if self.way == "scaled":
            return torch.relu(torch.addmm(self.bias, x, self.own, alpha=0.5))
        if self.way == "by the batch":
            return torch.relu(F.linear(x, self.own.t() / x.shape[0]))
        return torch.relu(F.linear(x, (self.own * x.mean()).t()))


_LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(6, 4, 3, stride=2, padding=1), (6, 9)),
    "conv2d": (nn.Conv2d(6, 4, (3, 2), padding=(2, 0), groups=2), (6, 5, 4)),
    "same": (nn.Conv2d(6, 4, (4, 3), padding="same", dilation=2), (6, 5, 4)),
    "reflected": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), (6, 5, 4)),
    "conv3d": (nn.Conv3d(2, 4, 3, padding=1, stride=(1, 2, 1)), (2, 3, 4, 3)),
    "transposed1d": (nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1), (6, 5)),
    "transposed2d": (
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        (6, 4, 4),
    ),
    "transposed3d": (nn.ConvTranspose3d(2, 4, 2, stride=2), (2, 2, 3, 2)),
    "linear": (nn.Linear(6, 5, bias=False), (6,)),
    "tokens": (nn.Linear(6, 5), (3, 6)),
}


@pytest.mark.parametrize("name", list(_LAYERS))
def test_layers(name: str) -> None:
    layer, shape = _LAYERS[name]
    torch.manual_seed(0)
    _check(Between(layer).eval(), torch.randn(5, *shape))


@pytest.mark.parametrize("way", ["matmul", "mm", "addmm"])
def test_matrices(way: str) -> None:
    torch.manual_seed(0)
    _check(Written(way).eval(), torch.randn(5, 6))


def _check(model: nn.Module, x: Tensor) -> None:
    snn = to_spiking(model, x, steps=3, method="binary", progress=False).double()
    x = x.double()
    simulation, module = simulate(snn, x, progress=False), as_spiking_module(snn)
    assert len(module.layers) == 1 and not module.left_out
    counter = SynOpCounter()
    with DispatchCounterMode([counter]):
        outputs = module(x)
    torch.testing.assert_close(outputs, simulation.outputs, rtol=0, atol=1e-12)
    (path,) = module.layers
    inside = sum(counter.get_counts()[f"SpikeBySpike.layers.{path}"].values())
    assert inside == counter.get_total() == round(simulation.counts["accumulates"] * len(x)) > 0


def test_a_product_of_signals_is_no_layer() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 6)
    snn = to_spiking(Written("product").eval(), x, steps=3, method="binary", progress=False)
    assert not as_spiking_module(snn).layers


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("einsum", "'bmm'.*nn.Linear"),
        ("left", "'matmul'.*right side.*nn.Linear"),
        ("scaled", "'addmm'.*nn.Linear"),
        ("by the batch", "in each call.*parameter"),
    ],
)
def test_weights_that_no_module_holds(way: str, words: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 6)
    snn = to_spiking(Written(way).eval(), x, steps=3, method="binary", progress=False)
    # They are counted all the same.
    assert simulate(snn, x, progress=False).counts["accumulates"] > 0
    with pytest.raises(InputError, match=words) as caught:
        as_spiking_module(snn)
    assert "\n" not in str(caught.value)


def test_a_scaled_product_has_as_many_synapses_as_a_plain_one() -> None:
    torch.manual_seed(0)
    model, x = Written("addmm").eval(), torch.randn(5, 6)
    found = []
    for way in ("addmm", "scaled"):
        model.way = way
        snn = to_spiking(model, x, steps=3, method="binary", progress=False)
        found.append(simulate(snn, x, progress=False).counts["accumulates"])
    assert found[0] == found[1] > 0
