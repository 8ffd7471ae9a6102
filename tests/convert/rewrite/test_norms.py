"""Norms taken apart into mean, square, sum, inverse root and product."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import audit, load, refit, to_spiking


class Channels(nn.Module):
    """A convolution, a norm over its channels, and a head."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), norm, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


class Rows(nn.Module):
    """A linear layer, a norm over rows, and a head."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(6, 12), norm, nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.norm(self.embed(x))).mean(1))


class ByHand(nn.Module):
    """RMS norm as people write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


CHANNELS = {
    "group": lambda: nn.GroupNorm(4, 8),
    "one group": lambda: nn.GroupNorm(1, 8, affine=False),
    "instance": lambda: nn.InstanceNorm2d(8, affine=True),
    "running": lambda: nn.InstanceNorm2d(8, track_running_stats=True),
}
ROWS = {
    "layer": lambda: nn.LayerNorm(12),
    "plain": lambda: nn.LayerNorm(12, elementwise_affine=False, bias=False),
    "rms": lambda: nn.RMSNorm(12),
    "by hand": lambda: ByHand(12),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network with a norm, and inputs for it."""
    torch.manual_seed(0)
    if name in CHANNELS:
        model: nn.Module = Channels(CHANNELS[name]())
        x = torch.randn(64, 3, 6, 6)
    else:
        model, x = Rows(ROWS[name]()), torch.randn(64, 5, 6)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval(), x


def convert(model: nn.Module, x: Tensor, **settings):
    return to_spiking(model, x, **{"steps": 8, "progress": False} | settings)


@pytest.mark.parametrize("name", [*CHANNELS, *ROWS])
def test_nothing_remains_and_the_outputs_are_close(name: str) -> None:
    model, x = network(name)
    # One network by the fit that users get, the others by one that takes no time.
    steps, method = (4, "tbpi-exact") if name == "layer" else (8, "binary")
    snn = convert(model, x, steps=steps, normalisation=True, method=method)
    report = snn.report.to_dict()
    assert report["remaining"] == []
    assert audit(snn, x[:3]).agrees
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(snn.original()(x), expected, rtol=1e-4, atol=1e-5)
        for part in (x, x[:1], x[:3]):
            assert (snn(part) - model(part)).norm() < 0.3 * model(part).norm()
    functions = [row["function"] for row in report["sites"]]
    if name != "running":
        assert len(functions) == 3 and any("rsqrt" in f for f in functions)
        assert any("taken apart" in note for note in report["notes"])


def test_without_the_switch_it_remains() -> None:
    model, x = network("layer")
    report = convert(model, x, method="binary").report.to_dict()
    assert [row["op"] for row in report["remaining"]] == ["layer_norm"]
    assert len(report["sites"]) == 1


def test_offset_and_scale_of_channels_cost_nothing() -> None:
    model, x = network("layer")
    uneven = Rows(nn.LayerNorm(12)).eval()
    uneven.load_state_dict(model.state_dict())
    with torch.no_grad():
        # One channel lies far out, as in trained transformers.
        uneven.embed.weight[3] *= 8
        uneven.embed.bias[5] += 20
    errors = []
    for one in (model, uneven):
        snn = convert(one, x, normalisation=True, method="binary")
        with torch.no_grad():
            errors.append(float((snn(x) - one(x)).norm() / one(x).norm()))
    # Binary tables are coarse, and the bound is that of fitted ones.
    assert errors[1] < min(3 * errors[0] + 0.02, 0.12)


def test_mean_squares_that_span_decades() -> None:
    model, x = network("rms")
    with torch.no_grad():
        model.embed.bias.zero_()
    x = x * torch.logspace(-0.7, 0.7, len(x))[:, None, None]
    snn = convert(model, x, normalisation=True, steps=8)
    with torch.no_grad():
        error = (snn(x) - model(x)).norm(dim=1) / model(x).norm(dim=1)
    assert error.median() < 0.2 and error.isfinite().all()


def test_saved_and_refitted(tmp_path: Path) -> None:
    model, x = network("layer")
    snn = convert(model, x, normalisation=True, method="binary")
    snn.save(tmp_path / "net.fsnn")
    back = load(tmp_path / "net.fsnn")
    with torch.no_grad():
        assert torch.equal(back(x), snn(x))
    assert {n: h.relative for n, h in back.histograms.items()} == {
        n: h.relative for n, h in snn.histograms.items()
    }
    assert any(h.relative for h in back.histograms.values())
    plain = convert(model, x, normalisation=True, method="binary", steps=5, sequential=False)
    again = refit(back, steps=5, method="binary", progress=False)
    with torch.no_grad():
        assert torch.equal(again(x), plain(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_precision(dtype: torch.dtype) -> None:
    model, x = network("layer")
    model, x = model.to(dtype), x.to(dtype)
    snn = convert(model, x, normalisation=True, method="binary")
    with torch.no_grad():
        found, expected = snn(x), model(x)
    assert found.dtype == dtype and (found - expected).norm() < 0.2 * expected.norm()


def test_constant_rows_are_finite() -> None:
    model, x = network("layer")
    snn = convert(model, x, normalisation=True, method="binary")
    with torch.no_grad():
        assert snn(torch.zeros_like(x)).isfinite().all()
        assert snn(100 * x).isfinite().all()


class Twice(nn.Module):
    """A norm of what was normalised already: its mean square hardly varies."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.one, self.two = nn.Linear(6, 12), nn.LayerNorm(12), nn.LayerNorm(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.two(self.one(self.embed(x)))).mean(1))


def test_a_norm_of_nearly_constant_spread() -> None:
    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(64, 5, 6)
    snn = convert(model, x, normalisation=True, method="binary", sequential=False)
    with torch.no_grad():
        assert (snn(x) - model(x)).norm() < 0.5 * model(x).norm()
        # Below the range that calibration saw the inverse root is that of the range's end.
        site = snn.sites["two.rsqrt"]
        low = next(row.low for row in snn.report.sites if row.name == "two.rsqrt")
        assert site(torch.tensor(0.9 * low)) == site(torch.tensor(low)) > 0


class Moved(nn.Module):
    """A norm of axes that were moved, and a view of what it gives."""

    def __init__(self, norm: nn.Module, order: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.norm, self.order, self.head = norm, order, nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(x.permute(self.order)).view(x.shape[0], -1)))


@pytest.mark.parametrize(
    ("norm", "order", "shape"),
    [
        (nn.LayerNorm(4), (0, 2, 1), (4, 6)),
        (nn.RMSNorm(4), (0, 2, 1), (4, 6)),
        (nn.LayerNorm((6, 4)), (0, 2, 1), (4, 6)),
        (nn.InstanceNorm1d(6), (0, 2, 1), (4, 6)),
        (nn.LayerNorm(4), (0, 2, 3, 4, 1), (4, 2, 3, 2)),
    ],
)
def test_of_moved_axes(norm: nn.Module, order: tuple[int, ...], shape: tuple[int, ...]) -> None:
    x = torch.randn(24, *shape)
    model = Moved(norm, order, x[0].numel()).eval()
    options = {"steps": 4, "method": "binary", "progress": False}
    snn = to_spiking(model, x, normalisation=True, **options)
    assert not [o.op for o in snn.report.operations if o.kind == "remaining"]
    with torch.no_grad():
        torch.testing.assert_close(snn.original()(x), model(x))
