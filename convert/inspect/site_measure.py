"""What is summed up of one site while both networks run beside each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..calibration.histogram import Histogram
from ..fitting.problem import scattered
from ..network.report import SiteRow
from ..neuron.few_spikes import WHOLE, FewSpikesNeuron
from .diagnosis import POOR, Cause, SiteCorrelation
from .value_errors import InputParts, Pairs

# A site's own squared error may not be so many times that of calibration, and this share of the
# variance, because of inputs that calibration didn't see.
_LARGER, _NOTICED = 4.0, 0.01
# Bias correction stretches by no more than this. A squared error of no more than so many times the
# report's is that of a neuron that wasn't stretched; where there is no row for it, a stretch is one
# if taking it back lowers the squared error to that share.
_STRETCH, _SAME, _BETTER = 2.0, 1.01, 0.9
# Squared errors below this share of the values' squares are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Own:
    """What a neuron does by itself.

    Args:
        stretch: by which bias correction stretched its thresholds and resets, for what reaches it
            in the spiking network. On exact inputs that is taken back: it is no error of its own.
        mse: squared error on the calibration images, infinite if that isn't known.
        variance: of the exact values there.
    """

    stretch: float
    mse: float
    variance: float


class SiteMeasure:
    """What is summed up of one site.

    Args:
        name: of the site.
        neuron: that ran.
        row: of the report.
        parts: where inputs lie.
        own: what the neuron does by itself.
        before: sites whose values reach it.
        generator: draws the points.
        points: drawn from each piece.
    """

    def __init__(
        self,
        name: str,
        neuron: FewSpikesNeuron,
        row: SiteRow,
        parts: InputParts,
        own: Own,
        before: frozenset[str],
        generator: torch.Generator,
        points: int,
    ) -> None:
        self.name, self.neuron, self.report, self.parts = name, neuron, row, parts
        self.own = own
        self.before = before
        self.generator, self.points_wanted = generator, points
        self.together, self.alone = Pairs(), Pairs()
        self.outside_spiking = self.lost = 0
        self.points: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor, x_spiking: Tensor, y_spiking: Tensor) -> None:
        """Adds exact inputs and values of a piece, and those of the spiking network."""
        own = self.neuron.decode(x / self.own.stretch, plan=WHOLE)
        eps = torch.finfo(x.dtype).eps
        # Masks make -inf, which no range holds.
        kept = x.isfinite() & y.isfinite()
        self.lost += int((~y.isfinite()).sum())
        x, y, own, x_spiking, y_spiking = (
            t[kept].double() for t in (x, y, own, x_spiking, y_spiking)
        )
        beyond = self.parts.beyond(x, eps)
        self.outside_spiking += int(self.parts.beyond(x_spiking, eps).sum())
        self.together.add(y, y_spiking)
        self.alone.add(y, own)
        self.parts.add(x, (own - y).square(), beyond)
        drawn = torch.randperm(len(y), generator=self.generator)[: self.points_wanted].to(y.device)
        self.points.append(torch.stack([y[drawn], y_spiking[drawn], beyond[drawn].double()]).cpu())

    def row(self) -> SiteCorrelation:
        """The site's row."""
        points = torch.cat(self.points, 1).numpy()
        outside, rare, rest = self.parts.shares()
        found = self.parts.rare()
        return SiteCorrelation(
            name=self.name,
            function=self.report.function,
            steps=self.neuron.steps,
            gates=self.neuron.intervals - 1,
            correlation=self.together.correlation,
            error=self.together.relative_error,
            correlation_alone=self.alone.correlation,
            error_alone=self.alone.relative_error,
            expected=math.sqrt(self.own.mse / self.own.variance) if self.own.variance > 0 else 0.0,
            outside=self.parts.outside_share,
            outside_spiking=self.outside_spiking / max(self.together.count, 1),
            rare=None if found is None else found[0],
            rare_expected=None if found is None else found[1],
            low=self.parts.low,
            high=self.parts.high,
            lowest=self.parts.lowest,
            highest=self.parts.highest,
            parts={Cause.SATURATION: outside, Cause.RARE: rare, Cause.RESOLUTION: rest},
            poor_alone=self._poor(self.alone) or self._surprising(outside + rare),
            poor=self._poor(self.together),
            before=self.before,
            original=points[0],
            spiking=points[1],
            beyond=points[2] > 0,
        )

    def _poor(self, pairs: Pairs, share: float = POOR) -> bool:
        """Whether the error is large beside the variance, here or on the calibration images."""
        variance = max(pairs.variance, self.own.variance)
        return pairs.error > max(share * variance, _ROUNDING * pairs.mean_square)

    def _surprising(self, unusual: float) -> bool:
        """Whether inputs that calibration didn't see, or too seldom, make the error what it is.

        Args:
            unusual: the share of the error that they make.
        """
        larger = self.alone.error > _LARGER * self.own.mse
        return larger and unusual > 0.5 and self._poor(self.alone, _NOTICED)


def own_of(
    neuron: FewSpikesNeuron, f: torch.nn.Module, histogram: Histogram | None, row: SiteRow | None
) -> Own:
    """What a neuron does by itself, by the calibration's histogram.

    Nobody kept the stretch. A neuron was fitted without one, so it is the one at which the neuron
    fits its function best.

    Args:
        neuron: that ran.
        f: the exact function.
        histogram: what calibration held; None if that isn't known.
        row: of the report, of these very neurons; None if it has none.
    """
    if histogram is None or not histogram.total:
        if row is None:
            return Own(1.0, math.inf, 0.0)
        return Own(1.0, row.mse, row.mse / row.relative_mse if row.relative_mse > 0 else 0.0)
    ends = (histogram.bounds(cells) for cells in (histogram.cells, histogram.cells + 1))
    low, high = (np.clip(end, histogram.low, histogram.high) for end in ends)
    x = torch.from_numpy(scattered(low, high)).to(neuron.thresholds)
    exact = f(x).double()
    p = torch.from_numpy(histogram.counts / histogram.total).to(exact)

    def error(stretch: float) -> float:
        found = neuron.decode(x / stretch, plan=WHOLE).double()
        return float(p.dot((found - exact).square()))

    variance = float(p.dot((exact - p.dot(exact)).square()))
    plain, best, width = error(1.0), 1.0, math.log(_STRETCH)
    if row is not None and plain <= _SAME * row.mse:
        return Own(1.0, plain, variance)
    for _ in range(3):
        tried = best * np.exp(np.linspace(-width, width, 33))
        best = float(min(tried, key=error))
        width /= 8
    mse = error(best)
    if row is None and mse > _BETTER * plain:
        best, mse = 1.0, plain
    return Own(best, mse, variance)
