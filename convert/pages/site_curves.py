"""What a site's neuron computes beside its function, and the inputs that calibration saw there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..calibration.histogram import Histogram
from ..network.model import SpikingModel
from ..network.report import SiteRow
from ..neuron.few_spikes import WHOLE, FewSpikesNeuron
from ..parts.model import SpikingParts
from .svg import Floats

# Points of a curve, and bars of a histogram.
_POINTS, _BARS = 320, 40
# The middle that is shown where the whole range is so many times as wide, and the space around it.
_MIDDLE, _WIDER, _SPACE = 0.999, 4.0, 0.1
# Positive inputs over more than such a ratio are shown on an axis of equal ratios.
_DECADES = 1e3


@dataclass(frozen=True, eq=False)
class SiteCurve:
    """One site, drawn.

    Args:
        row: of the report.
        x: inputs ``[N]``, increasing.
        exact, fitted: the function's and the neuron's values ``[N]``.
        edges: of the histogram's bars ``[B + 1]``; empty without a histogram.
        shares: of the inputs, in each bar ``[B]``.
        log: whether equal ratios of x take equal space.
        whole: whether all inputs that calibration saw are in x.
        step_shares: share of the inputs at which the neuron sends a spike, by step ``[K]``; empty
            without a histogram.
        gate_share: share of the inputs at which a gated neuron sends its interval's constant.
    """

    row: SiteRow
    x: Floats
    exact: Floats
    fitted: Floats
    edges: Floats
    shares: Floats
    log: bool
    whole: bool
    step_shares: tuple[float, ...]
    gate_share: float


def site_curves(snn: SpikingModel) -> list[SiteCurve]:
    """The curve of every site, in the report's order, with the network's own neurons."""
    parts = {site: (neuron, f, histogram) for site, neuron, f, histogram in _placed(snn)}
    rows = snn.report.sites if snn.report is not None else []
    return [_curve(row, *parts[row.name]) for row in rows if row.name in parts]


def _placed(
    snn: SpikingModel, called: str = ""
) -> Iterator[tuple[str, FewSpikesNeuron, nn.Module, Histogram | None]]:
    if isinstance(snn, SpikingParts):
        for name, network in snn.parts.items():
            yield from _placed(network, f"{name}.")
        return
    for site, path in snn.names.items():
        neuron = snn.neuron_of(site, None)
        if isinstance(neuron, FewSpikesNeuron):
            exact = snn.exact[path.rpartition(".")[2]]
            yield f"{called}{site}", neuron, exact, snn.histograms.get(site)


def _curve(
    row: SiteRow, neuron: FewSpikesNeuron, f: nn.Module, histogram: Histogram | None
) -> SiteCurve:
    known = histogram is not None and histogram.total > 0
    centres = histogram.centres if histogram is not None and known else np.empty(0)
    counts = histogram.counts if histogram is not None and known else np.empty(0, np.int64)
    log = row.low > 0 and row.high / row.low > _DECADES
    low, high, whole = _window(row.low, row.high, centres, counts, log)
    x = np.geomspace(low, high, _POINTS) if log else np.linspace(low, high, _POINTS)
    exact, fitted = _values(f, neuron, x)
    edges, shares = np.empty(0), np.empty(0)
    step_shares: tuple[float, ...] = ()
    gate_share = 0.0
    if histogram is not None and known:
        edges = np.geomspace(low, high, _BARS + 1) if log else np.linspace(low, high, _BARS + 1)
        inside = np.histogram(np.clip(centres, row.low, row.high), edges, weights=counts)[0]
        shares = inside / counts.sum()
        step_shares, gate_share = _events(neuron, centres, counts, histogram.minus_infinite)
    return SiteCurve(row, x, exact, fitted, edges, shares, log, whole, step_shares, gate_share)


def _window(
    low: float, high: float, centres: Floats, counts: np.ndarray, log: bool
) -> tuple[float, float, bool]:
    """The inputs that are shown: all, or the middle ones where a few lie far away."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return -1.0, 1.0, False
    if low >= high:
        return low - max(abs(low), 1.0) / 2, low + max(abs(low), 1.0) / 2, True
    if not len(centres):
        return low, high, True
    scale = np.log(centres) if log else centres
    ends = (math.log(low), math.log(high)) if log else (low, high)
    below = counts.cumsum() / counts.sum()
    left = float(scale[np.searchsorted(below, (1 - _MIDDLE) / 2)])
    right = float(scale[min(int(np.searchsorted(below, (1 + _MIDDLE) / 2)), len(scale) - 1)])
    if not left < right or ends[1] - ends[0] <= _WIDER * (right - left):
        return low, high, True
    space = _SPACE * (right - left)
    left, right = max(left - space, ends[0]), min(right + space, ends[1])
    return (math.exp(left), math.exp(right), False) if log else (left, right, False)


def _values(f: nn.Module, neuron: FewSpikesNeuron, x: Floats) -> tuple[Floats, Floats]:
    given = torch.from_numpy(x).to(neuron.thresholds)
    with torch.no_grad():
        exact, fitted = f(given), neuron.decode(given, plan=WHOLE)
    return exact.double().cpu().numpy(), fitted.double().cpu().numpy()


def _events(
    neuron: FewSpikesNeuron, centres: Floats, counts: np.ndarray, hidden: int
) -> tuple[tuple[float, ...], float]:
    """Shares of all inputs that make the neuron send a spike in each step, and its constant."""
    if hidden:
        centres, counts = np.append(centres, -math.inf), np.append(counts, hidden)
    given = torch.from_numpy(centres).to(neuron.thresholds)
    shares = torch.from_numpy(counts / counts.sum()).to(given.device)
    with torch.no_grad():
        spikes = neuron.spikes(given).double()
        steps = tuple((spikes * shares).sum(1).tolist())
        if neuron.gates is None:
            return steps, 0.0
        constant = (neuron.offset[neuron.interval(given)] != 0).double()
    return steps, float((constant * shares).sum())
