"""Pictures hold the data of the run, read back from their axes."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from convert import InputError, SiteError, SpikingModel, to_spiking
from convert.inspect import (
    correlate,
    plot_correlation,
    plot_membrane,
    plot_raster,
    plot_rates,
    simulate,
)
from convert.inspect.correlation import Correlation
from convert.inspect.simulation_result import Simulation

_ROOT = Path(__file__).resolve().parents[3]


def _convert(model: nn.Module, x: Tensor, **settings: Any) -> SpikingModel:
    return to_spiking(model, x, **{"steps": 3, "method": "binary", "progress": False} | settings)


def _runs(snn: SpikingModel, x: Tensor) -> Simulation:
    return simulate(snn, x, record="*", progress=False)


@pytest.fixture(scope="module")
def plain(small_model: nn.Module, noise: Tensor) -> Simulation:
    """Five images; not to be changed."""
    return _runs(_convert(small_model, noise), noise[:5])


@pytest.fixture(scope="module")
def gated(small_model: nn.Module, noise: Tensor) -> Simulation:
    """Five images, with two gates a neuron; not to be changed."""
    return _runs(_convert(small_model, noise, gates=2), noise[:5])


@pytest.fixture(params=["plain", "gated"])
def run(request: pytest.FixtureRequest) -> Simulation:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Simulation)
    return found


class Chain(nn.Module):
    """Layers of width 4 with a ReLU each."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(sites))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.3 * torch.relu(layer(x))
        return x


def _texts(figure: Figure) -> str:
    """All words of a figure."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return "\n".join(t.get_text() for t in figure.findobj(Text) if t.get_visible())


def _points(axes: Axes, label: str) -> set[tuple[float, float]]:
    """Where markers are, of a series or of all that begin with a label."""
    found = [c for c in axes.collections if str(c.get_label()).startswith(label)]
    return {(float(x), float(y)) for c in found for x, y in np.asarray(c.get_offsets())}


def _line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


@pytest.mark.parametrize("site", ["silu", "act"])
def test_raster(run: Simulation, site: str) -> None:
    figure = plot_raster(run, site, neurons=10_000, images=5)
    (axes,) = figure.axes
    events = run.events(site)
    for image in range(5):
        own = events[events["image"] == image]
        spikes, constants = own[own["step"] > 0], own[own["step"] == 0]
        assert _points(axes, f"image {image}: spikes") == set(
            zip(spikes["tick"].astype(float), spikes["neuron"].astype(float), strict=True)
        )
        assert _points(axes, f"image {image}: constants") == set(
            zip(constants["tick"].astype(float), constants["neuron"].astype(float), strict=True)
        )
    text = _texts(figure)
    assert "all 384 neurons; 5 images" in text and "tick of the clock" in text
    assert all(f"image {i}" in text for i in range(5))
    assert ("gates choose a table" in text) == run.gated[site]
    # A grey column for each image, at the tick of its gates.
    marked = {round(p.get_x() + p.get_width() / 2, 6) for p in axes.patches}
    begin = run.starts[site] + 1
    assert marked == ({begin + run.interval * i for i in range(5)} if run.gated[site] else set())


def test_raster_of_a_sample(run: Simulation) -> None:
    def drawn(**settings: Any) -> tuple[set[tuple[float, float]], str, list[str]]:
        figure = plot_raster(run, "act", neurons=20, images=2, **settings)
        labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
        return _points(figure.axes[0], "image"), _texts(figure), labels

    points, text, labels = drawn()
    assert "20 of 384 neurons, drawn at random (seed 0); the first 2 images of 5" in text
    assert {y for _, y in points} <= set(range(20))
    rows = np.sort(np.random.default_rng(0).choice(384, 20, replace=False))
    events = run.events("act")
    events = events[(events["image"] < 2) & np.isin(events["neuron"], rows)]
    places = np.searchsorted(rows, events["neuron"])
    assert points == {(float(t), float(p)) for t, p in zip(events["tick"], places, strict=True)}
    assert labels[0] == str(rows[0]) and labels[-1] == str(rows[-1])
    assert drawn()[0] == points and drawn(seed=1)[0] != points


@pytest.mark.parametrize(("site", "image", "neuron"), [("silu", 0, 7), ("act", 4, 383)])
def test_membrane(run: Simulation, site: str, image: int, neuron: int) -> None:
    figure = plot_membrane(run, site, neuron, image)
    (axes,) = figure.axes
    membrane = run.membranes[site]
    v = membrane.potentials.flatten(2)[:, image, neuron].numpy()
    fired = run.spikes[site].flatten(2)[:, image, neuron].numpy()
    steps, begin = len(fired), membrane.begin
    x, y = _line(axes, "potential while inputs arrive")
    assert list(x) == [*membrane.ticks[:-steps], begin]
    assert np.array_equal(y[:-1], v[:-steps].astype(float)) and y[-1] == v[-steps - 1]
    x, y = _line(axes, "potential while it spikes")
    assert list(x[:-1]) == [begin, *membrane.ticks[-steps:]]
    assert np.array_equal(y[:-1], v[-steps - 1 :].astype(float))
    text = _texts(figure)
    T = membrane.thresholds
    if run.gated[site]:
        table = int(run.intervals[site].flatten(1)[image, neuron])
        T = T[table]
        sends = "with a constant" if run.constants[site][table] else "without a constant"
        assert f"input in interval {table + 1} of 3 ({sends}" in text
    else:
        assert "interval" not in text
    segments = [line for line in axes.lines if line.get_color() == "#d55e00"]
    low, high = axes.get_ylim()
    assert len(segments) == steps
    for t, line in enumerate(segments):
        assert list(line.get_xdata()) == [begin + t, begin + t + 1]
        assert line.get_ydata()[0] == pytest.approx(min(max(float(T[t]), low), high))
    # What is drawn is what happened: it spikes where the potential is above the threshold.
    above = [float(v[-steps - 1 + t]) > float(T[t]) for t in range(steps)]
    assert above == fired.tolist()
    assert {x for x, _ in _points(axes, "spike")} == {
        begin + 1.0 + t for t in range(steps) if fired[t]
    }
    assert f"Neuron {neuron} of {site}, image {image}" in text


def test_a_threshold_far_away_is_written(run: Simulation) -> None:
    membrane = run.membranes["silu"]
    T = membrane.thresholds.clone()
    T[..., 1] = 1e6
    far = Simulation(**{**vars(run), "membranes": {"silu": type(membrane)(
        membrane.ticks, membrane.potentials, T, membrane.begin)}})  # fmt: skip
    figure = plot_membrane(far, "silu", 0)
    assert figure.axes[0].get_ylim()[1] < 1e3 and "1e+06" in _texts(figure)


def test_rates(run: Simulation) -> None:
    figure = plot_rates(run)
    left, right = figure.axes[:2]
    expected = np.stack([rate.numpy() for rate in run.rates.values()])
    assert np.array_equal(np.asarray(left.images[0].get_array()), expected)
    assert [p.get_width() for p in right.patches] == pytest.approx(list(expected.sum(1)))
    assert [t.get_text() for t in left.get_yticklabels()] == ["silu", "act"]
    text = _texts(figure)
    assert f"{expected[0, 0]:.2f}" in text and "mean over 5 images" in text
    assert ("constants of gates are not counted" in text) == run.gated["act"]


@pytest.mark.parametrize("sites", [20, 200])
def test_rates_of_many_sites(sites: int) -> None:
    rates = {f"layer{i}.act": torch.rand(4 + (i % 2)).double() for i in range(sites)}
    rates["layer7.act"] = torch.zeros(4).double()
    rates["layer9.act"] = torch.ones(5).double()
    run = Simulation(
        **dict.fromkeys(("outputs", "fast_outputs", "flips", "counts")),
        ticks=torch.arange(3), latency=5, interval=5, rates=rates, starts={}, spikes={},
        intervals={}, membranes={}, gated=dict.fromkeys(rates, False),
    )  # fmt: skip
    figure = plot_rates(run)
    width, height = figure.get_size_inches()
    assert width == 7 and height < 14
    left, right = figure.axes[:2]
    drawn = np.ma.masked_invalid(left.images[0].get_array())
    assert drawn.shape == (sites, 5)
    assert np.ma.count_masked(drawn[:, 4]) == sites // 2 + 1
    text = _texts(figure)
    assert "white: the site has fewer steps" in text and "never" in text
    if sites > 60:
        # The most frequent are named, though not every one is.
        assert "every 4th named" in text
        assert sum(p.get_height() == 1.5 for p in right.patches) == 3
    else:
        assert all(name in text for name in rates)
    # Names beside the axis don't lie over each other.
    boxes = [t.get_window_extent() for t in left.get_yticklabels()]
    gaps = [abs(a.y0 - b.y0) - a.height for a, b in pairwise(boxes)]
    assert min(gaps) > -2


@pytest.fixture(scope="module")
def found() -> Correlation:
    """Of twelve sites, calibrated on dim images; not to be changed."""
    torch.manual_seed(0)
    x = torch.randn(60, 4)
    snn = _convert(Chain(12).eval(), 0.5 * x)
    return correlate(snn, None, x, progress=False)


def _titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_correlation(found: Correlation) -> None:
    names = [row.name for row in found.sites][:4]
    figure = plot_correlation(found, sites=names)
    assert len(_titles(figure)) == 4
    for axes, row in zip(figure.axes, found.sites[:4], strict=False):
        assert axes.get_title() == (
            f"{row.name}\ncorrelation {row.correlation:.3f}, error {row.error:.2f}"
        )
        inside, beyond = (np.asarray(c.get_offsets()) for c in axes.collections)
        assert np.array_equal(inside[:, 0], row.original[~row.beyond])
        assert np.array_equal(beyond[:, 1], row.spiking[row.beyond]) and len(beyond)
        (line,) = axes.lines
        assert np.array_equal(line.get_xdata(), line.get_ydata())
    text = _texts(figure)
    assert "value in the original network" in text and "largest errors" not in text


def test_correlation_of_the_worst_sites(found: Correlation) -> None:
    figure = plot_correlation(found)
    titles = _titles(figure)
    worst = sorted(found.sites, key=lambda row: -row.error)[:9]
    assert len(titles) == 9
    assert {t.split("\n")[0] for t in titles} == {row.name for row in worst}
    assert "the 9 of 12 sites with the largest errors" in _texts(figure)
    one = plot_correlation(found, sites=found.sites[2].name)
    assert len(_titles(one)) == 1
    with pytest.raises(SiteError, match="no site here is called 'nothing'"):
        plot_correlation(found, sites=["nothing"])


def test_files(gated: Simulation, found: Correlation, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    for draw, given in (
        (plot_raster, (gated, "act")),
        (plot_membrane, (gated, "act", 0, 0)),
        (plot_rates, (gated,)),
        (plot_correlation, (found,)),
    ):
        assert isinstance(draw(*given, path), Figure)
        assert 1000 < path.stat().st_size < 400_000
        path.unlink()
    assert list(path.parent.iterdir()) == []


def test_bad_input(plain: Simulation, small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    unrecorded = simulate(_convert(small, images), images[:2], record="silu", progress=False)
    with pytest.raises(SiteError, match=r"'act' was not recorded .*simulate\(\.\.\., record="):
        plot_raster(unrecorded, "act")
    with pytest.raises(SiteError, match="'act' was not recorded"):
        plot_membrane(unrecorded, "act", 0)
    for neuron in (384, -1, 1.0, True):
        with pytest.raises(
            InputError, match="neuron of 'act' must be a whole number from 0 to 383"
        ):
            plot_membrane(plain, "act", neuron)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="image of 'act' must be a whole number from 0 to 4"):
        plot_membrane(plain, "act", 0, 5)
    with pytest.raises(InputError, match="neurons must be a whole number from 1, found 0"):
        plot_raster(plain, "act", neurons=0)
    path = tmp_path / "a.jpg"
    drawings: Sequence[tuple[Any, tuple[Any, ...]]] = (
        (plot_raster, (plain, "act")),
        (plot_membrane, (plain, "act", 0, 0)),
        (plot_rates, (plain,)),
    )
    for draw, given in drawings:
        with pytest.raises(InputError, match=r"a picture is written as \.png"):
            draw(*given, path)
        with pytest.raises(InputError, match="takes what simulate gives, found a dict"):
            draw({}, *given[1:])
    with pytest.raises(InputError, match="takes what correlate gives, found a Simulation"):
        plot_correlation(plain)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_page(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (_ROOT / "docs" / "spikes.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {
        "snn": _convert(small, images),
        "model": small,
        "images": images,
    }
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        exec(compile(example, "docs/spikes.md", "exec"), names)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        "run.npz", "raster.png", "membrane.png", "rates.png", "correlation.png", "some.pdf",
    }  # fmt: skip
    assert len(names["kept"]["membrane/act"]) == len(names["kept"]["membrane_ticks/act"])
