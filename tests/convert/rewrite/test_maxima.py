"""Max pooling and row maxima as tournaments of ReLUs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import InputError, audit, load, to_spiking
from convert.rewrite.tournament import plan


class Pooled(nn.Module):
    """A convolution, an activation, a pooling, a head."""

    def __init__(self, pool: nn.Module, activation=F.silu) -> None:
        super().__init__()
        self.conv, self.pool, self.activation = nn.Conv2d(2, 6, 3, padding=1), pool, activation
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.activation(self.conv(x))).flatten(1))


class Attention(nn.Module):
    """Attention by hand with a mask that hides some positions, and in one row all."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(6, 18), nn.Linear(6, 3)
        mask = torch.zeros(5, 5)
        if hidden:
            mask[0], mask[1, 3:] = float("-inf"), float("-inf")
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)).mean(1)


def convert(model: nn.Module, x: Tensor, **settings):
    defaults = {"steps": 10, "method": "binary", "max_pool": True, "progress": False}
    return to_spiking(model, x, **defaults | settings)


def close(snn: nn.Module, model: nn.Module, x: Tensor, most: float) -> None:
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(snn.original()(x), expected, rtol=1e-4, atol=1e-5)
        assert (snn(x) - expected).norm() < most * expected.norm()


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d((2, 3), stride=(1, 2), ceil_mode=True),
        nn.MaxPool2d(2, dilation=2),
        nn.AdaptiveMaxPool2d(2),
    ],
    ids=["two", "three", "ceiling", "dilated", "adaptive"],
)
def test_pooling_is_a_tournament(pool: nn.Module) -> None:
    torch.manual_seed(0)
    model, x = Pooled(pool).eval(), torch.randn(48, 2, 8, 8)
    model(x[:1])
    # Two by the fit that users get, the others by one that takes no time.
    fitted = isinstance(pool, nn.MaxPool2d) and pool.dilation == 1 and not pool.ceil_mode
    snn = convert(model, x, method="tbpi-exact" if fitted else "binary")
    report = snn.report.to_dict()
    assert report["remaining"] == [] and len(report["sites"]) > 1
    assert any("tournaments" in note for note in report["notes"])
    assert audit(snn, x[:3]).agrees
    close(snn, model, x, 0.08)
    close(snn, model, x[:1], 0.3)


def test_without_the_switch_it_remains() -> None:
    torch.manual_seed(0)
    model, x = Pooled(nn.MaxPool2d(2)).eval(), torch.randn(48, 2, 8, 8)
    model(x[:1])
    snn = convert(model, x, max_pool=False)
    assert [row["op"] for row in snn.report.to_dict()["remaining"]] == ["max_pool2d"]


def test_pooling_first_saves_neurons() -> None:
    torch.manual_seed(0)
    model, x = Pooled(nn.MaxPool2d(2), torch.sigmoid).eval(), torch.randn(48, 2, 8, 8)
    model(x[:1])
    after, first = (convert(model, x, max_pool=how) for how in (False, "first"))
    assert first.report.neurons * 4 == after.report.neurons
    assert [row["op"] for row in first.report.to_dict()["remaining"]] == ["max_pool2d"]
    assert any("come before the activation" in note for note in first.report.notes)
    close(first, model, x, 0.15)


def test_pooling_stays_behind_what_does_not_rise() -> None:
    torch.manual_seed(0)
    model, x = Pooled(nn.MaxPool2d(2)).eval(), torch.randn(48, 2, 8, 8)
    model(x[:1])
    # SiLU falls before it rises: its pooling is a tournament like any other.
    snn = convert(model, x, max_pool="first")
    assert snn.report.to_dict()["remaining"] == []
    assert snn.report.sites[0].neurons == 6 * 8 * 8


@pytest.mark.parametrize("hidden", [False, True])
def test_row_maxima(hidden: bool) -> None:
    torch.manual_seed(0)
    model, x = Attention(hidden).eval(), torch.randn(64, 5, 6)
    snn = convert(model, x, steps=12)
    assert audit(snn, x[:3]).agrees
    assert snn.report.to_dict()["remaining"] == []
    close(snn, model, x, 0.1)


def test_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Attention(True).eval(), torch.randn(64, 5, 6)
    snn = convert(model, x)
    snn.save(tmp_path / "net.fsnn")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "net.fsnn")(x), snn(x))


def test_a_maximum_of_maxima() -> None:
    torch.manual_seed(0)
    pools = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2))
    model, x = Pooled(pools, F.relu).eval(), torch.randn(48, 2, 8, 8)
    model(x[:1])
    snn = convert(model, x, normalisation=True)
    assert snn.report.to_dict()["remaining"] == []
    close(snn, model, x, 0.1)


@pytest.mark.parametrize("setting", ["last", 2, None])
def test_refusals(setting: object) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(InputError, match="max_pool"):
        to_spiking(model, torch.randn(8, 2), max_pool=setting, progress=False)
    with pytest.raises(InputError, match="normalisation"):
        to_spiking(model, torch.randn(8, 2), normalisation="all", progress=False)


def test_a_plan_finds_the_maximum_of_every_window() -> None:
    windows = [(0, 1, 2), (2, 3, 4), (4, 5), (6,), (0, 1, 2, 3, 4, 5, 6)]
    levels, places = plan(windows)
    assert len(levels) == 3
    for order in torch.arange(7).repeat(20, 1):
        first = order[torch.randperm(7)].tolist()
        values = first
        for level in levels:
            pairs = zip(level.left, level.right, strict=True)
            values = [max(values[a], values[b]) for a, b in pairs] + [values[k] for k in level.kept]
        found = [values[place] for place in places]
        assert found == [max(first[i] for i in window) for window in windows]
