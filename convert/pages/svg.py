"""Small pieces of SVG: numbers with few digits, paths, and axes that values are put on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def short(value: float) -> str:
    """A coordinate with one decimal at most."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def line_path(points: Iterable[tuple[float, float]]) -> str:
    """A path through points; it is broken where one has no finite coordinates."""
    parts, pen = [], "M"
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = "M"
            continue
        parts.append(f"{pen}{short(x)} {short(y)}")
        pen = "L"
    return "".join(parts)


def stair_path(xs: Sequence[float], ys: Sequence[float]) -> str:
    """A path of level pieces: it goes up or down halfway between two points that differ."""
    parts, last = [], math.nan
    for index, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if not math.isfinite(y):
            if math.isfinite(last):
                parts.append(f"H{short(xs[index - 1])}")
        elif not math.isfinite(last):
            parts.append(f"M{short(x)} {short(y)}")
        elif y != last:
            parts.append(f"H{short((xs[index - 1] + x) / 2)}V{short(y)}")
        last = y
    if math.isfinite(last):
        parts.append(f"H{short(xs[-1])}")
    return "".join(parts)


def bar_path(edges: Sequence[float], tops: Sequence[float], base: float) -> str:
    """Filled bars between edges, as one path; a bar without height is left out."""
    return "".join(
        f"M{short(left)} {short(base)}V{short(top)}H{short(right)}V{short(base)}Z"
        for left, right, top in zip(edges, edges[1:], tops, strict=False)
        if short(top) != short(base)
    )


@dataclass(frozen=True)
class Axis:
    """Where values lie on the page.

    Args:
        low, high: values at the ends.
        start, end: their coordinates.
        log: whether equal ratios take equal space; both ends are above 0 then.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """The coordinate of a value; NaN for one that isn't finite."""
        return float(self.places(np.asarray([value], np.float64))[0])

    def places(self, values: Floats) -> Floats:
        """Coordinates of values ``[N]``."""
        low, high = self.low, self.high
        with np.errstate(all="ignore"):
            if self.log:
                values = np.log(np.where(values > 0, values, np.nan))
                low, high = math.log(low), math.log(high)
            share = (values - low) / (high - low)
        return self.start + np.where(np.isfinite(share), share, np.nan) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values on the axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            apart = max(1, -(-(last - first + 1) // most))
            decades = [10.0**e for e in range(first, last + 1, apart)]
            return decades if len(decades) > 1 else [self.low, self.high]
        span = self.high - self.low
        unit = 10.0 ** math.floor(math.log10(span / most))
        step = next(m * unit for m in (1, 2, 2.5, 5, 10) if span / (m * unit) <= most * (1 + 1e-9))
        least, most = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(least, most + 1)]
