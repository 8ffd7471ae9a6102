"""Pictures of a simulation: events, a potential, rates, and values beside the original's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .correlation import Correlation
from .diagnosis import SiteCorrelation
from .pictures import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    SKY,
    WIDTH,
    Path,
    ending_of,
    new_figure,
    number,
    plain,
    written,
)
from .simulation_result import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Longest name of a site beside an axis, and in a title.
_NAME, _TITLE = 34, 48
# With more sites than this, not every one has its name beside its row.
_NAMED = 60
# With more sites than this, rates aren't written into the cells.
_WRITTEN = 32
# Pictures of one site each, of the worst where there are more.
_SCATTERS = 9


def plot_raster(
    run: Simulation,
    site: str,
    path: Path | None = None,
    *,
    neurons: int = 60,
    images: int = 6,
    seed: int = 0,
) -> Figure:
    """The events of a site, tick by tick.

    Args:
        run: from `simulate`, with the site among `record`.
        site: its name.
        path: a .png, .svg or .pdf to write, whole or not at all.
        neurons: the most that are drawn; of more a sample.
        images: the most that are drawn; of more the first.
        seed: of the sample.

    Raises:
        SiteError: if the site wasn't recorded.
        InputError: for another ending of the path, or a number that can't be used.
    """
    ending = ending_of(path)
    _check_run(run, "plot_raster")
    spikes = run.recorded(site).flatten(2)
    steps, count, all_neurons = spikes.shape
    most = number(neurons, "neurons", 1, None)
    shown_images = min(number(images, "images", 1, None), count)
    random = np.random.default_rng(number(seed, "seed", 0, None))
    rows = np.arange(all_neurons)
    if most < all_neurons:
        rows = np.sort(random.choice(all_neurons, most, replace=False))
    events = run.events(site)
    events = events[np.isin(events["neuron"], rows) & (events["image"] < shown_images)]
    figure = new_figure(WIDTH, 4.2)
    axes = figure.subplots()
    gated, start = run.gated[site], run.starts[site]
    tall = max(1.5, min(9.0, 200 / len(rows)))
    for image in range(shown_images):
        colour = (BLUE, ORANGE)[image % 2]
        begin = start + run.interval * image
        if gated:
            axes.axvspan(
                begin + 0.5, begin + 1.5, color=PALE, lw=0, zorder=0,
                label="tick in which the gates choose a table" if not image else None,
            )  # fmt: skip
        own = events[events["image"] == image]
        sent = own["step"] > 0
        place = np.searchsorted(rows, own["neuron"])
        axes.scatter(
            own["tick"][sent], place[sent], s=(0.9 * tall) ** 2, marker="s", lw=0, color=colour,
            label=f"image {image}: spikes",
        )  # fmt: skip
        if (~sent).any():
            axes.scatter(
                own["tick"][~sent], place[~sent], s=min(tall, 5) ** 2, marker="o", lw=0.8,
                facecolors="none", edgecolors=colour, label=f"image {image}: constants",
            )  # fmt: skip
        axes.text(
            begin + gated + (steps + 1) / 2, len(rows) + 0.01 * len(rows), f"image {image}",
            color=colour, ha="center", va="bottom", fontsize=8 if shown_images < 9 else 6,
        )  # fmt: skip
    last = start + run.interval * (shown_images - 1) + gated + steps
    axes.set(xlim=(start + 0.4, last + 0.6), ylim=(-1, len(rows)))
    axes.set_xlabel(_clock_label(run, gated, steps))
    axes.set_ylabel("neuron" if len(rows) == all_neurons else "neuron (a sample)")
    places = np.unique(np.linspace(0, len(rows) - 1, min(6, len(rows))).astype(int))
    axes.set_yticks(places, [f"{rows[p]:,}" for p in places])
    _whole_ticks(axes)
    if gated:
        _gate_legend(axes, any(events["step"] == 0))
    part = "all" if len(rows) == all_neurons else f"{len(rows):,} of"
    drawn = "" if len(rows) == all_neurons else f", drawn at random (seed {seed})"
    of = f"{shown_images} images" if shown_images > 1 else "one image"
    of = of if shown_images == count else f"the first {of} of {count}"
    axes.set_title(
        f"Spikes of {plain(site, _TITLE)}\n{part} {all_neurons:,} neurons{drawn}; {of}",
        fontsize=10,
        pad=16,
    )
    return written(figure, path, ending)


def plot_membrane(
    run: Simulation, site: str, neuron: int, image: int = 0, path: Path | None = None
) -> Figure:
    """The membrane potential of a neuron while it integrates, and while it spikes.

    Args:
        run: from `simulate`, with the site among `record`.
        site: its name.
        neuron: its place in one image's tensor, counted through, from 0.
        image: from 0.
        path: a .png, .svg or .pdf to write, whole or not at all.

    Raises:
        SiteError: if the site wasn't recorded.
        InputError: for another ending of the path, or a neuron or image that doesn't exist.
    """
    ending = ending_of(path)
    _check_run(run, "plot_membrane")
    spikes = run.recorded(site).flatten(2)
    steps, images, neurons = spikes.shape
    image = number(image, f"image of {site!r}", 0, images)
    neuron = number(neuron, f"neuron of {site!r}", 0, neurons)
    membrane, gated = run.membranes[site], run.gated[site]
    v = membrane.potentials.flatten(2)[:, image, neuron].double().cpu().numpy()
    ticks = np.array(membrane.ticks)
    fired = spikes[:, image, neuron].cpu().numpy()
    table = int(run.intervals[site].flatten(1)[image, neuron]) if gated else 0
    T = membrane.thresholds.double().cpu().numpy()
    T = T[table] if gated else T
    begin = membrane.begin
    before = v[-steps - 1 : -1]
    figure = new_figure(WIDTH, 3.8)
    axes = figure.subplots()
    came = len(v) - steps
    axes.step(
        [*ticks[:came], begin], [*v[:came], v[came - 1]], where="post", color=SKY, lw=2.2,
        label="potential while inputs arrive",
    )  # fmt: skip
    axes.step(
        [begin, *ticks[came:], ticks[-1] + 0.5], [v[came - 1], *v[came:], v[-1]], where="post",
        color=BLUE, lw=2.2, label="potential while it spikes",
    )  # fmt: skip
    if gated:
        axes.axvspan(begin - 1, begin, color=PALE, lw=0, label="gates choose a table")
    axes.axvline(begin, color=GREY, lw=0.8, ls=":")
    low, high = _limits(v, T)
    for t, threshold in enumerate(T):
        inside = low <= threshold <= high
        drawn = min(max(threshold, low), high)
        axes.plot(
            [begin + t, begin + t + 1], [drawn, drawn], color=ORANGE, lw=1.8,
            ls="--" if inside else ":", label="threshold of each step" if not t else None,
        )  # fmt: skip
        if not inside:
            axes.text(
                begin + t + 0.5, drawn, f"{threshold:.3g}", color=ORANGE, fontsize=8, ha="center",
                va="top" if threshold > high else "bottom",
            )  # fmt: skip
    when = begin + 1 + np.flatnonzero(fired)
    axes.scatter(
        when, before[fired], marker="^", s=60, color="black", zorder=3, label="spike",
    )  # fmt: skip
    axes.set(xlim=(ticks[0] - 0.2, ticks[-1] + 0.5), ylim=(low, high))
    axes.set_xlabel("tick after the image arrived at the network (one step each)")
    axes.set_ylabel("membrane potential\n(in units of the input)")
    axes.set_title(
        f"Neuron {neuron:,} of {plain(site, _TITLE)}, image {image}\n"
        f"{int(fired.sum())} {'spike' if fired.sum() == 1 else 'spikes'} in {steps} steps"
        f"{_gate_words(run, site, table)}",
        fontsize=10,
    )
    axes.grid(alpha=0.25)
    _whole_ticks(axes)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return written(figure, path, ending)


def _gate_words(run: Simulation, site: str, table: int) -> str:
    if not run.gated[site]:
        return ""
    tables = len(run.membranes[site].thresholds)
    sends = "with" if bool(run.constants[site][table]) else "without"
    return f"; input in interval {table + 1} of {tables} ({sends} a constant, sent as an event)"


def plot_rates(run: Simulation, path: Path | None = None) -> Figure:
    """Spikes per neuron and step of every site, as a map, and their sums as bars.

    Args:
        run: from `simulate`; nothing need be recorded.
        path: a .png, .svg or .pdf to write, whole or not at all.

    Raises:
        InputError: for another ending of the path, or a network without a spiking site.
    """
    ending = ending_of(path)
    _check_run(run, "plot_rates")
    names = list(run.rates)
    if not names:
        raise InputError("no site of the network spiked; run simulate outside spiking_only([])")
    steps = max(len(rate) for rate in run.rates.values())
    grid = np.full((len(names), steps), math.nan)
    for line, rate in zip(grid, run.rates.values(), strict=True):
        line[: len(rate)] = rate.cpu().numpy()
    sums = np.nansum(grid, 1)
    height = min(max(2.6, 1.5 + 0.21 * len(names)), 13.5)
    figure = new_figure(WIDTH, height)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(max(1.2, steps / 4), 1.3))
    top = float(np.nanmax(grid)) or 1.0
    drawn = left.imshow(
        np.ma.masked_invalid(grid), aspect="auto", cmap="cividis", vmin=0, vmax=top,
        interpolation="nearest",
    )  # fmt: skip
    left.set_facecolor("white")
    if len(names) <= _WRITTEN and steps <= 10:
        for (row, step), rate in np.ndenumerate(grid):
            if not math.isnan(rate):
                left.text(
                    step, row, f"{rate:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if rate > 0.55 * top else "white",
                )  # fmt: skip
    every = max(1, math.ceil(len(names) / _NAMED))
    marked = range(0, len(names), every)
    left.set_yticks(marked, [plain(names[i], _NAME) for i in marked], fontsize=7.5)
    columns = range(0, steps, math.ceil(steps / 16))
    left.set_xticks(columns, [str(t + 1) for t in columns])
    left.set(xlabel="step", ylabel="site, from input to output")
    left.set_title("spikes per neuron\nin each step", fontsize=10)
    figure.colorbar(
        drawn, ax=left, location="bottom", label="spikes per neuron and step", aspect=30,
        shrink=0.9, pad=0.3 / height,
    )  # fmt: skip
    right.barh(range(len(names)), sums, height=0.75, color=BLUE)
    right.grid(axis="x", alpha=0.3)
    right.set_axisbelow(True)
    right.tick_params(labelleft=False, left=False)
    right.set_xlabel("spikes per neuron\nand image")
    right.set_title("in all steps", fontsize=10)
    right.set_xlim(0, max(float(sums.max()), 1e-9) * 1.25)
    if len(names) <= _WRITTEN:
        for row in np.flatnonzero(sums):
            right.text(sums[row], row, f" {sums[row]:.2f}", va="center", fontsize=7)
    _tell_extremes(right, names, sums, every)
    notes = [f"mean over {run.images} images"]
    if every > 1:
        notes.append(f"{len(names)} sites, every {_nth(every)} named")
    if np.isnan(grid).any():
        notes.append("white: the site has fewer steps")
    if any(run.gated[name] for name in names):
        notes.append("constants of gates are not counted")
    figure.suptitle(f"How often neurons spike\n({'; '.join(notes)})", fontsize=10)
    return written(figure, path, ending)


def _tell_extremes(
    axes: Axes, names: Sequence[str], sums: npt.NDArray[np.float64], every: int
) -> None:
    """Names the sites that never spike, and those that spike most where not all have names."""
    for row in np.flatnonzero(sums == 0)[:5].tolist():
        label = "never" if every == 1 else f"never: {plain(names[row], 24)}"
        axes.text(0, row, f" {label}", va="center", fontsize=7, color=ORANGE)
    most = np.argsort(-sums, kind="stable")[: 3 if every > 1 else 0]
    for row in most.tolist():
        axes.barh(row, sums[row], height=1.5, color=ORANGE)
        axes.text(
            0.02 * axes.get_xlim()[1], row, plain(names[row], 28), va="center", fontsize=7.5,
            bbox={"facecolor": "white", "alpha": 0.85, "pad": 1, "edgecolor": "none"},
        )  # fmt: skip


def plot_correlation(
    found: Correlation, path: Path | None = None, sites: str | Sequence[str] | None = None
) -> Figure:
    """The values of the spiking network over the original's, site by site.

    Args:
        found: from `correlate`.
        path: a .png, .svg or .pdf to write, whole or not at all.
        sites: names or globs; the 9 with the largest errors if None.

    Raises:
        SiteError: for a name that no site of `found` has.
        InputError: for another ending of the path.
    """
    ending = ending_of(path)
    if not isinstance(found, Correlation):
        raise InputError(
            f"plot_correlation takes what correlate gives, found a {type(found).__name__}"
        )
    rows = found.named(sites)
    asked = len(rows)
    if asked > _SCATTERS:
        worst = {row.name for row in sorted(rows, key=_badness)[:_SCATTERS]}
        rows = [row for row in rows if row.name in worst]
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = new_figure(max(3.6, WIDTH * columns / 3), 1.0 + 2.35 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, row in zip(grid.flat, rows, strict=False):
        _scatter(axes, row)
    for axes in grid.flat[len(rows) :]:
        axes.set_axis_off()
    figure.supxlabel("value in the original network", fontsize=10)
    figure.supylabel("value in the spiking network", fontsize=10)
    which = "Each value in the spiking network over that in the original"
    if asked > len(rows):
        which = f"{which}: the {len(rows)} of {asked} sites with the largest errors"
    figure.suptitle(
        f"{which}\nblack line: equal; orange: the input was outside the calibrated range",
        fontsize=10,
    )
    return written(figure, path, ending)


def _badness(row: SiteCorrelation) -> float:
    return -row.error if math.isfinite(row.error) else -math.inf


def _scatter(axes: Axes, row: SiteCorrelation) -> None:
    """One site's values; a point each."""
    original, spiking = row.original, row.spiking
    axes.scatter(
        original[~row.beyond], spiking[~row.beyond], s=4, alpha=0.35, lw=0, color=BLUE,
        rasterized=True,
    )  # fmt: skip
    axes.scatter(
        original[row.beyond], spiking[row.beyond], s=6, alpha=0.6, lw=0, color=ORANGE,
        rasterized=True,
    )  # fmt: skip
    known = np.concatenate([original, spiking])
    known = known[np.isfinite(known)]
    ends = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    axes.plot(ends, ends, color="black", lw=0.9)
    r = "none" if row.correlation is None else f"{row.correlation:.3f}"
    axes.set_title(f"{plain(row.name, _NAME)}\ncorrelation {r}, error {row.error:.2f}", fontsize=8)
    axes.tick_params(labelsize=7.5)
    axes.grid(alpha=0.25)


def _check_run(run: Simulation, name: str) -> None:
    if not isinstance(run, Simulation):
        raise InputError(f"{name} takes what simulate gives, found a {type(run).__name__}")


def _limits(v: npt.NDArray[np.float64], T: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the axis of potentials; thresholds far away don't stretch it."""
    v = v[np.isfinite(v)]
    low, high = (float(v.min()), float(v.max())) if len(v) else (0.0, 1.0)
    near = T[(low - 2 * (high - low) <= T) & (high + 2 * (high - low) >= T)]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.12 * (high - low) or 0.1 * (abs(high) or 1.0)
    return low - margin, high + margin


def _clock_label(run: Simulation, gated: bool, steps: int) -> str:
    gates = "one tick for the gates, then " if gated else ""
    pipeline = f"; a new image every {run.interval} ticks" if run.images > 1 else ""
    return f"tick of the clock\n({gates}one for each of {steps} steps{pipeline})"


def _gate_legend(axes: Axes, constants: bool) -> None:
    """What a grey column is; colours are named above the columns."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = [
        Line2D([], [], color=GREY, marker="s", ls="", ms=5, label="spike"),
        Patch(color=PALE, label="tick in which the gates choose a table"),
    ]
    if constants:
        ring = Line2D(
            [], [], color=GREY, marker="o", ls="", mfc="none", ms=5,
            label="constant of the chosen table",
        )  # fmt: skip
        handles.insert(1, ring)
    axes.figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False
    )


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _nth(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
