"""Whole networks: every activation of torchvision's and of a network that mixes all spellings."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from convert import audit, to_spiking


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


def _short(stack: nn.Module, length: int) -> None:
    """Keeps the first blocks of a stack; the others are like the second."""
    assert isinstance(stack, nn.Sequential)
    del stack[length:]


def _efficientnet() -> nn.Module:
    model = torchvision.models.efficientnet_b0()
    for stage in model.features[2:4]:
        _short(stage, 2)
    for stage in model.features[4:-1]:
        _short(stage, 1)
    return model


def _mobilenet() -> nn.Module:
    model = torchvision.models.mobilenet_v3_small()
    # Blocks whose outputs have as many channels as their inputs; two kinds of them stay.
    for index in (11, 8, 6):
        del model.features[index]
    return model


def _densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 3, 2), 16, num_classes=10)


def _convnext() -> nn.Module:
    model = torchvision.models.convnext_tiny()
    for stage, length in zip(model.features[1::2], (2, 1, 1, 1), strict=True):
        _short(stage, length)
    return model


def _swin_v2() -> nn.Module:
    """swin_v2_t with two of its four stages, each of a plain and a shifted block."""
    swin = torchvision.models.swin_transformer
    return swin.SwinTransformer(
        [4, 4], 96, [2, 2], [3, 6], [8, 8], stochastic_depth_prob=0.2,
        block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2,
    )  # fmt: skip


def _regnet() -> nn.Module:
    model = torchvision.models.regnet_y_400mf()
    for stage, length in zip(model.trunk_output, (2, 2, 1, 1), strict=True):
        _short(stage, length)
    return model


def _googlenet() -> nn.Module:
    model = torchvision.models.googlenet(init_weights=False)
    # Blocks whose outputs have as many channels as their inputs.
    model.inception4b = model.inception4c = model.inception5a = nn.Identity()
    return model


def _shufflenet() -> nn.Module:
    model = torchvision.models.shufflenet_v2_x0_5()
    for stage, length in ((model.stage2, 2), (model.stage3, 2), (model.stage4, 1)):
        _short(stage, length)
    return model


def _mnasnet() -> nn.Module:
    model = torchvision.models.mnasnet0_5()
    for stack, length in zip(model.layers[8:14], (2, 2, 2, 1, 1, 1), strict=True):
        _short(stack, length)
    return model


_NORMS = {"layer_norm", "native_layer_norm"}
_POOL = {"max_pool2d"}
# What makes each, sites that no module's call stands for (F.relu), and what may remain. The stacks
# of equal blocks are short: each block costs as much as the first. benchmarks/zoo.py has the whole
# networks, and all.
_TORCHVISION: dict[str, tuple[Callable[[], nn.Module], int, set[str]]] = {
    "resnet18": (torchvision.models.resnet18, 0, _POOL),
    "mobilenet_v3_small": (_mobilenet, 0, set()),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, 0, _POOL),
    "efficientnet": (_efficientnet, 0, set()),
    "densenet": (_densenet, 1, _POOL),
    "convnext": (_convnext, 0, _NORMS),
    # Four of its ReLUs work on constants: the tables of relative positions.
    "swin_v2": (_swin_v2, -4, _NORMS | {"rms_norm", "amax"}),
    "regnet": (_regnet, 0, set()),
    "googlenet": (_googlenet, 39, _POOL),  # after every convolution
    "shufflenet": (_shufflenet, 0, _POOL),
    "mnasnet": (_mnasnet, 0, set()),
}


@pytest.mark.parametrize("name", _TORCHVISION)
def test_torchvision(name: str) -> None:
    make, functional, allowed = _TORCHVISION[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(4, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    # What is found doesn't depend on K.
    snn = to_spiking(model, x, steps=3, method="binary", sequential=False, progress=False)
    # Attention has an exponential and a reciprocal beside the activations.
    beside = ("rsqrt", "exp", "reciprocal")
    sites = [s for s in snn.report.sites if not any(part in s.function for part in beside)]
    assert len(sites) == _calls(model, x[:2]) + functional
    assert {row["op"] for row in snn.report.to_dict()["remaining"]} <= allowed
    original = snn.original()
    with torch.no_grad():
        for size in (1, 3, 4):
            expected = model(x[:size])
            torch.testing.assert_close(original(x[:size]), expected, rtol=1e-3, atol=1e-4)
            assert (original(x[:size]) - expected).norm() < 1e-3 * expected.norm()
            assert snn(x[:size]).isfinite().all()
    for size in (1, 3):
        found = audit(snn, x[:size])
        assert found.agrees, found.differences


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
