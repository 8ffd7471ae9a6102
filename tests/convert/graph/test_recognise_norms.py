"""Norms written out by hand are the norms that they compute; a block's spelling doesn't matter."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import to_spiking
from convert.capture.capture import capture
from convert.graph.roles import operations
from convert.sites.find import find_sites

_N = 6
Norm = Callable[[Tensor, Tensor, Tensor], Tensor]


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _var_mean(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt() * w + b


def _sums(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    c = x - x.mean(-1).unsqueeze(-1)
    return c * (c * c).sum(-1, keepdim=True).div(_N).add(1e-6).sqrt().reciprocal() * w + b


def _channels(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Over the channels of [N, C, L], as in networks of convolutions."""
    x = x.unflatten(-1, (3, 2))
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    return (w[:3, None] * ((x - u) / torch.sqrt(s + 1e-6)) + b[:3, None]).flatten(1)


_LAYER: dict[str, Norm] = {
    "F.layer_norm": lambda x, w, b: F.layer_norm(x, (_N,), w, b),
    "var": lambda x, w, b: (
        _centred(x) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5) * w + b
    ),
    "rsqrt": lambda x, w, b: (
        b + w * (_centred(x) * torch.rsqrt(_centred(x).pow(2).mean(-1, keepdim=True) + 1e-5))
    ),
    "sums": _sums,
    "var_mean": _var_mean,
    "std + eps": lambda x, w, b: w * _centred(x) / (x.std(-1, keepdim=True) + 1e-6) + b,
    "two moments": lambda x, w, b: (
        _centred(x)
        * ((x**2).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1e-5) ** -0.5
        * w
        + b
    ),
    "no affine": lambda x, w, b: _centred(x) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
    "channels": _channels,
}
_RMS: dict[str, Norm] = {
    "F.rms_norm": lambda x, w, b: F.rms_norm(x, (_N,), w, 1e-6),
    "rsqrt": lambda x, w, b: w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "norm": lambda x, w, b: x / (x.norm(dim=-1, keepdim=True) * _N**-0.5 + 1e-8) * w,
    "F.normalize": lambda x, w, b: F.normalize(x, dim=-1),
    "F.normalize over channels": lambda x, w, b: F.normalize(
        x.unflatten(-1, (3, 2)), dim=1
    ).flatten(1),
}


class Normed(nn.Module):
    """Each norm between linear layers of its own, one after the other."""

    def __init__(self, norms: list[Norm]) -> None:
        super().__init__()
        self.first, self.last, self.norms = nn.ModuleList(), nn.ModuleList(), norms
        self.w, self.b = nn.ParameterList(), nn.ParameterList()
        for _ in norms:
            self.first.append(nn.Linear(_N, _N))
            self.last.append(nn.Linear(_N, _N))
            self.w.append(nn.Parameter(torch.rand(_N) + 0.5))
            self.b.append(nn.Parameter(torch.rand(_N)))

    def forward(self, x: Tensor) -> list[Tensor]:
        parts = zip(self.norms, self.first, self.last, self.w, self.b, strict=True)
        return [last(torch.relu(last(norm(first(x), w, b)))) for norm, first, last, w, b in parts]


_EVERY = [("layer_norm", name, f) for name, f in _LAYER.items()]
_EVERY += [("rms_norm", name, f) for name, f in _RMS.items()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_norm_remains_of_each(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Normed([norm for _, _, norm in _EVERY]).eval().to(dtype)
    x = torch.randn(4, _N, dtype=dtype)
    captured = capture(model, x)
    sites = find_sites(captured.graph_module)
    found = operations(captured.graph_module, {site.module for site in sites})
    assert [site.label for site in sites] == ["relu"] * len(_EVERY)
    # In the order of the graph, so a spelling that isn't recognised shows by its place.
    assert [o.op for o in found if o.kind == "remaining"] == [op for op, _, _ in _EVERY]
    assert not [o for o in found if o.kind == "product"]
    # The affine part is in the norm.
    assert {o.op for o in found if o.kind == "synaptic"} <= {
        "linear", "view", "permute", "clone", "_to_copy"
    }  # fmt: skip
    with torch.no_grad():
        tolerance = {"rtol": 0.05, "atol": 0.02} if dtype == torch.bfloat16 else {}
        if dtype == torch.float64:
            tolerance = {"rtol": 1e-4, "atol": 1e-5}
        outputs = zip(_EVERY, captured.graph_module(x), model(x), strict=True)
        for (_, name, _), output, expected in outputs:
            torch.testing.assert_close(
                output, expected, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.rsqrt(x.pow(2).sum(0, keepdim=True) + 1e-6),  # over the batch
        lambda x: x[..., :3] * torch.rsqrt(x[..., 3:].pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda x: x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 1e-6),
        lambda x: x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt(),
        lambda x: x / (x.norm(dim=-1, keepdim=True) + 0.5),
        lambda x: (x - 1) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda x: x.mean(-1, keepdim=True) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    ],
)
def test_what_only_looks_like_a_norm_is_none(function: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(_N, _N)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.line(x))

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(5, _N)
    captured = capture(model, x)
    find_sites(captured.graph_module)
    assert not [n for n in captured.graph_module.graph.nodes if "_norm" in str(n.target)]
    with torch.no_grad():
        torch.testing.assert_close(captured.graph_module(x)[0], model(x))


class Block(nn.Module):
    """A pre-norm transformer block out of modules."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.act, self.drop = nn.GELU(), nn.Dropout(0.1)
        for norm in (self.norm1, self.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm1(x)
        x = x + self.drop(self.attention(n, n, n, need_weights=False)[0])
        return x + self.drop(self.down(self.act(self.up(self.norm2(x)))))


def _by_hand(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight + norm.bias


class Functional(Block):
    """The same, functional: the projections apart, softmax and layer norms by hand."""

    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        n, a, s = _by_hand(self.norm1, x), self.attention, self.scale
        weights, biases = a.in_proj_weight.chunk(3), a.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(n, w, b).unflatten(-1, (a.num_heads, -1)).transpose(1, 2)
            for w, b in zip(weights, biases, strict=True)
        )
        scores = (q * s) @ k.transpose(-2, -1) / (s * math.sqrt(q.shape[-1]))
        e = torch.exp(scores - scores.amax(-1, keepdim=True))
        mixed = ((e / e.sum(-1, keepdim=True)) @ v).transpose(1, 2).flatten(2)
        x = x + a.out_proj(mixed)
        hidden = F.gelu(F.linear(_by_hand(self.norm2, x), self.up.weight, self.up.bias))
        return x + F.linear(hidden * s, self.down.weight / s, self.down.bias)


class Scaled(Functional):
    """The same again, with factors that cancel."""

    scale = 4.0


def test_three_spellings_of_a_block_have_one_report() -> None:
    torch.manual_seed(0)
    block, x = Block().eval(), torch.randn(12, 5, 8)
    reports = []
    for kind in (Block, Functional, Scaled):
        model = kind().eval()
        model.load_state_dict(block.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(model(x), block(x), rtol=1e-5, atol=1e-5)
        snn = to_spiking(model, x, steps=6, method="binary")
        report = snn.report.to_dict()
        reports.append(
            (
                [(s["function"], s["neurons"]) for s in report["sites"]],
                [(r["op"], r["count"]) for r in report["remaining"]],
                sorted((p["op"], p["operands"], p["count"]) for p in report["products"]),
            )
        )
    assert reports[0] == reports[1] == reports[2]
    assert [s[0] for s in reports[0][0]] == ["exp", "reciprocal", "gelu"]
    assert reports[0][1] == [("layer_norm", 2), ("amax", 1)]
