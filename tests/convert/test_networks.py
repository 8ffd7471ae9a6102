"""Whole networks: every activation of torchvision's and of a network that mixes all spellings."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from convert import to_spiking
from convert.graph.capture import capture
from convert.graph.roles import operations
from convert.sites.find import find_sites


class Mixed(nn.Module):
    """The spellings that users write."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(12))
        self.relu, self.hard = nn.ReLU(), nn.Hardswish()
        self.one, self.each = nn.PReLU(), nn.PReLU(4, init=0.2)
        self.each.weight.data = torch.tensor([0.1, 0.2, -0.3, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        line = iter(self.lines)
        x = self.relu(next(line)(x))
        x = self.relu(next(line)(x))
        x = F.relu(next(line)(x))
        x = next(line)(x).relu_()
        x = torch.clamp(next(line)(x), min=0)
        x = next(line)(x)
        x = x * torch.sigmoid(x)
        x = next(line)(x)
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        x = next(line)(x)
        x = torch.tanh(torch.exp(x)) * x
        x = self.hard(next(line)(x))
        x = self.one(next(line)(x))
        x = self.each(next(line)(x))
        return next(line)(x)


def test_every_spelling_is_a_site() -> None:
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(9, 4, 5, 5)
    snn = to_spiking(model, x, steps=10, method="binary")
    labels = [row["function"] for row in snn.report.to_dict()["sites"]]
    assert labels[:5] == ["relu"] * 5
    assert labels[5] == "x * sigmoid(x)"
    assert "tanh" in labels[6] and "tanh(exp(x))" in labels[7]
    names = list(snn.sites)
    assert names[:2] == ["relu", "relu_1"]
    assert names[8] == "hard" and names[9] == "one"
    # A slope for each channel: a ramp either way, and a linear map.
    assert [n.startswith("each") for n in names[10:]] == [True, True]
    assert len(names) == 12
    assert snn.report.to_dict()["remaining"] == []
    with torch.no_grad():
        torch.testing.assert_close(snn.original()(x), model(x), rtol=1e-4, atol=1e-5)
        for size in (1, 7):
            assert snn(x[:size]).isfinite().all()


_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid)


def _calls(model: nn.Module, x: Tensor) -> int:
    """Calls of activation modules, and of F.relu outside of them, in the eager model."""
    count = 0

    def called(*_: object) -> None:
        nonlocal count
        count += 1

    handles = [
        m.register_forward_hook(called) for m in model.modules() if isinstance(m, _ACTIVATIONS)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return count


@pytest.mark.parametrize(
    ("name", "functional"),
    [
        ("resnet18", 0),
        ("efficientnet_b0", 0),
        ("mobilenet_v3_small", 0),
        ("densenet121", 1),  # one F.relu at the end
        ("convnext_tiny", 0),
    ],
)
def test_torchvision(name: str, functional: int) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(7, 3, 64, 64)
    captured = capture(model, x[:2])
    sites = find_sites(captured.graph_module)
    norms = sum("rsqrt" in site.label for site in sites)
    assert len(sites) - norms == _calls(model, x[:2]) + functional
    with torch.no_grad():
        for size in (1, 7):
            (found,) = captured.graph_module(x[:size])
            torch.testing.assert_close(found, model(x[:size]), rtol=1e-3, atol=1e-4)
    left = {
        o.op
        for o in operations(captured.graph_module, [s.module for s in sites])
        if o.kind == "remaining"
    }
    assert left <= {"max_pool2d", "layer_norm", "native_layer_norm"}


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
def test_torchvision_converted(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(8, 3, 64, 64)
    snn = to_spiking(model, x, steps=8, method="binary")
    with torch.no_grad():
        for size in (1, 7):
            assert snn(x[:size]).isfinite().all()
        expected = model(x)
        assert (snn.original()(x) - expected).norm() < 1e-3 * expected.norm()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x))
        return self.head(F.gelu(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def test_attention_is_listed_in_full() -> None:
    torch.manual_seed(0)
    model, x = Attention().eval(), torch.randn(16, 5, 6)
    snn = to_spiking(model, x, steps=8, method="binary")
    report = snn.report.to_dict()
    functions = [row["function"] for row in report["sites"]]
    assert any("exp" in f for f in functions)
    assert any("1 / x" in f or "reciprocal" in f for f in functions)
    assert any("erf" in f or "gelu" in f for f in functions)
    assert sum(row["count"] for row in report["products"]) >= 2
    assert {"amax", "layer_norm"} <= {
        row["op"].replace("native_", "") for row in report["remaining"]
    }
    with torch.no_grad():
        torch.testing.assert_close(snn.original()(x), model(x), rtol=1e-4, atol=1e-5)
        assert snn(x[:3]).isfinite().all()
