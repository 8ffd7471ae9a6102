"""The walker: which values become sites, what they are called, what stays outside."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert.capture.capture import capture
from convert.errors import SiteError
from convert.sites.find import Site, find_sites


class Between(nn.Module):
    """Two linear layers with any function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def _sites(model: nn.Module, x: Tensor) -> list[Site]:
    captured = capture(model.eval(), x)
    expected = captured.graph_module(x)[0]
    sites = find_sites(captured.graph_module)
    torch.testing.assert_close(captured.graph_module(x)[0], expected, rtol=1e-5, atol=1e-6)
    return sites


_ONE_SITE: list[tuple[str, Callable[[Tensor], Tensor], str]] = [
    ("F.relu", F.relu, "relu"),
    ("relu_", lambda x: x.relu_(), "relu"),
    ("clamp", lambda x: torch.clamp(x, min=0), "relu"),
    ("silu", F.silu, "x * sigmoid(x)"),
    ("hand-written silu", lambda x: x * torch.sigmoid(x), "x * sigmoid(x)"),
    ("gelu", F.gelu, "gelu"),
    (
        "hand-written gelu",
        lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))),
        "gelu(tanh)",
    ),
    ("skip", lambda x: x + F.gelu(x), "gelu"),
    ("hardswish", F.hardswish, "hardswish"),
    ("mish", F.mish, "mish"),
    ("selu", F.selu, "selu"),
    ("softplus", F.softplus, "softplus"),
    ("logsigmoid", F.logsigmoid, "logsigmoid"),
    ("invented", lambda x: torch.tanh(torch.exp(x)) * x, "(tanh(exp(x)) * x)"),
    ("affine around", lambda x: 3 * F.gelu(2 * x + 1) - 1, "gelu"),
]


class Parts(nn.Module):
    """Many functions side by side, so that one capture does for all."""

    def __init__(self, functions: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(map(Between, functions))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [part(x) for part in self.parts]


def test_one_site() -> None:
    model, x = Parts([function for _, function, _ in _ONE_SITE]).eval(), torch.randn(4, 6)
    captured = capture(model, x)
    expected = captured.graph_module(x)
    sites = find_sites(captured.graph_module)
    found: dict[str, list[str]] = {name: [] for name, _, _ in _ONE_SITE}
    for site in sites:
        found[_ONE_SITE[int(site.name.split(".")[1])][0]].append(site.label)
    assert found == {name: [label] for name, _, label in _ONE_SITE}
    for output, before in zip(captured.graph_module(x), expected, strict=True):
        torch.testing.assert_close(output, before, rtol=1e-5, atol=1e-6)


def test_prelu_per_channel_becomes_ramps() -> None:
    sites = _sites(Between(nn.PReLU(6)), torch.randn(4, 6))
    assert [site.label for site in sites] == ["relu", "relu"]
    assert len(_sites(Between(nn.PReLU()), torch.randn(4, 6))) == 1


def test_names_follow_the_calls() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.a(x))
            x = self.relu(self.b(x))
            return self.a(F.gelu(self.c(x)))

    assert [s.name for s in _sites(Reused(), torch.randn(4, 6))] == ["relu", "relu_1", "gelu"]
    assert [s.name for s in _sites(Between(nn.SiLU()), torch.randn(4, 6))] == ["function"]


def test_two_inputs_are_rewritten() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), self.b(x)
            return torch.maximum(a, b) / (1 + b.abs())

    labels = sorted(site.label for site in _sites(Two(), torch.randn(4, 6)))
    assert labels[-1] == "relu" and len(labels) == 2


def test_image_preprocessing_is_no_site() -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Between(nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.net(torch.clamp(2 * x - 1, -1, 1))

    assert [s.name for s in _sites(Clamped(), torch.randn(4, 6))] == ["net.function"]


def test_no_site_is_an_error() -> None:
    with pytest.raises(SiteError, match="no nonlinear activation"):
        _sites(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2)), torch.randn(4, 6))
