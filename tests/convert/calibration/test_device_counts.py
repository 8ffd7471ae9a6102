"""Counting on a GPU, run on the CPU: the same histograms, and few waits however many the sites."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.waits import Deep, Waits
from torch import Tensor

from convert import to_spiking
from convert.assembly import stages
from convert.calibration import device_counts, histogram, observe, tally
from convert.calibration.histogram import Histogram
from convert.errors import CalibrationError


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors of the CPU are counted as those of a GPU."""
    for module in (histogram, tally):
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


def _observed(layers: int, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Histogram], int]:
    """Histograms of a network's sites, and the waits of its calibration."""
    waits: list[int] = []
    seen: dict[str, Histogram] = {}
    calibrate = observe.calibrate

    def noted(*given: Any, **how: Any) -> observe.Observed:
        with Waits() as found:
            observed = calibrate(*given, **how)
        waits.append(found.number)
        seen.update(observed.histograms)
        return observed

    monkeypatch.setattr(stages, "calibrate", noted)
    images = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    to_spiking(Deep(layers), [images], steps=2, method="binary", progress=False)
    (number,) = waits
    return seen, number


def test_calibration_counts_the_same_and_waits_no_more_for_more_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        expected, _ = _observed(3, patch)
    numbers = []
    for layers in (1, 3):
        with monkeypatch.context() as patch:
            for module in (histogram, tally):
                patch.setattr(module, "apart", lambda _: True)
            found, number = _observed(layers, patch)
            numbers.append(number)
    assert len(expected) == 3 and found.keys() == expected.keys()
    for name, one in found.items():
        _same(one, expected[name])
    # Four pieces of one batch, the range of the input, and the size of the output.
    assert 0 < numbers[0] == numbers[1] <= 4 * 7 + 3


def test_what_a_mask_writes_counts_as_minus_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    least = torch.finfo(torch.float32).min
    x[::4], x[1::400] = least, -torch.inf
    found, expected, unseen = (Histogram("site") for _ in range(3))
    expected.add(x, masked=True, hidden=-1e12)
    with monkeypatch.context() as patch:
        patch.setattr(histogram, "apart", lambda _: True)
        found.add(x, masked=True, hidden=-1e12)
        unseen.add(x[x > least], masked=True, hidden=-1e12)
    _same(found, expected)
    assert found.minus_infinite == 1250 + 13 and found.low > -10
    assert found.hides and expected.hides and not unseen.hides
