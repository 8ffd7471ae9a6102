"""Counting on a GPU, run on the CPU: the same histograms, and few waits however many the sites."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convert import to_spiking
from convert.calibration import device_counts, histogram, observe
from convert.calibration.histogram import Histogram
from convert.errors import CalibrationError


class Waits(TorchFunctionMode):
    """Counts what would wait for a GPU."""

    NAMES = ("item", "__bool__", "__int__", "__float__", "__index__", "tolist", "cpu", "numpy")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self.NAMES or any(n in name for n in ("nonzero", "unique", "bincount")):
            self.found.append(name)
        indexed = name == "__getitem__" and isinstance(args[1], Tensor)
        if indexed and args[1].dtype == torch.bool:
            self.found.append("mask")
        return func(*args, **(kwargs or {}))

    @property
    def number(self) -> int:
        """How often; what follows a copy to the host waits for nothing more."""
        return len(self.found) - self.found.count("numpy")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors of the CPU are counted as those of a GPU."""
    for module in (histogram, observe):
        monkeypatch.setattr(module, "apart", lambda _: True)
    yield


def _same(a: Histogram, b: Histogram) -> None:
    assert (a.level, a.low, a.high, a.minus_infinite) == (b.level, b.low, b.high, b.minus_infinite)
    assert np.array_equal(a.cells, b.cells) and a.cells.dtype == b.cells.dtype
    assert np.array_equal(a.counts, b.counts) and a.counts.dtype == b.counts.dtype
    assert np.array_equal(a.mass, b.mass) and a._sum == b._sum


def _values() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60_000, generator=g)
    far = x.clone() * 1e-5
    far[7] = 1e5
    masked = x.clone()
    masked[::3] = -torch.inf
    return {
        "ordinary": x,
        "double": x.double() * 1e-30,
        "half": x.half(),
        "bfloat16": x.bfloat16(),
        "few": x[:300].view(3, 4, 25),
        "one": x[:1],
        "none": x[:0],
        "zeros": torch.zeros(9000),
        "a constant": torch.full((5000,), -3.25),
        "relu": x.relu(),
        "one far away": far,
        "tiny": x * 1e-42,
        "many decades": torch.exp(20 * x.double()),
        "masked": masked,
        "all masked": torch.full((20,), -torch.inf),
    }


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", _values())
def test_the_same_histogram(
    name: str, weighted: bool, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = _values()[name]
    worth = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) if weighted else None
    parts = [(x, worth), (0.5 * x, worth), (x, worth)]
    found, expected = Histogram("site", relative=relative), Histogram("site", relative=relative)
    for values, importance in parts:
        expected.add(values, masked=True, importance=importance)
    with monkeypatch.context() as patch:
        patch.setattr(histogram, "apart", lambda _: True)
        patch.setattr(histogram.counting, "dense_counts", None)
        for values, importance in parts:
            found.add(values, masked=True, importance=importance)
    _same(found, expected)


def test_bad_values_name_the_site(there: None) -> None:
    for value, kind in ((float("nan"), "NaN"), (float("inf"), "inf"), (-float("inf"), "inf")):
        with pytest.raises(CalibrationError, match=rf"site: {kind}.*1 of 3 values"):
            Histogram("site").add(torch.tensor([0.0, value, 1.0]))
    with pytest.raises(CalibrationError, match=r"site: NaN .*2 of 3 values"):
        Histogram("site").add(torch.tensor([-torch.inf, torch.nan, 1.0]), masked=True)


def test_sites_wait_together(there: None) -> None:
    values = list(_values().values())[:11]

    def waits(count: int) -> int:
        sites = [Histogram(str(i)) for i in range(count * len(values))]
        given = [x for x in values for _ in range(count)]
        with Waits() as found:
            device_counts.finish(h.adding(x) for h, x in zip(sites, given, strict=True))
        return found.number

    assert 0 < waits(1) == waits(5) <= 7


class _Deep(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(8, 8), nn.SiLU()) for _ in range(layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _observed(layers: int, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Histogram], int]:
    """Histograms of a network's sites, and the waits of the counting."""
    waits: list[int] = []
    seen: dict[str, Histogram] = {}
    finish = observe._Tally.finish

    def noted(tally: observe._Tally) -> None:
        with Waits() as found:
            finish(tally)
        waits.append(found.number)
        seen.update(tally.histograms)

    monkeypatch.setattr(observe._Tally, "finish", noted)
    images = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    to_spiking(_Deep(layers), [images], steps=2, method="binary", progress=False)
    return seen, max(waits)


def test_calibration_counts_the_same_and_waits_no_more_for_more_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        expected, _ = _observed(3, patch)
    numbers = []
    for layers in (1, 3):
        with monkeypatch.context() as patch:
            for module in (histogram, observe):
                patch.setattr(module, "apart", lambda _: True)
            found, number = _observed(layers, patch)
            numbers.append(number)
    assert len(expected) == 3 and found.keys() == expected.keys()
    for name, one in found.items():
        _same(one, expected[name])
    assert 0 < numbers[0] == numbers[1] <= 7
