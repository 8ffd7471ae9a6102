"""The small picture of a site: its function, the neuron's steps, and where the inputs lie."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup

from .site_curves import SiteCurve
from .svg import Axis, Floats, bar_path, line_path, stair_path
from .words import figure, percent

_WIDTH, _HEIGHT = 240, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 236, 8, 128
# The neuron may leave the function's values by this share of their range before it is cut off.
_OVER = 0.25


def site_picture(curve: SiteCurve, identity: str) -> Markup:
    """The picture as SVG.

    Args:
        curve: of the site.
        identity: of the title in the page.
    """
    across = Axis(curve.x[0], curve.x[-1], _LEFT, _RIGHT, curve.log)
    low, high = _height(curve)
    up = Axis(low, high, _BOTTOM - 4, _TOP + 4)
    xs = across.places(curve.x)
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-labelledby="{id}"><title id="{id}">{title}'
        '</title><path class="seen" d="{seen}"/>'
        '<path class="frame" d="M{left} {top}V{bottom}H{right}"/>'
        '<path class="exact" d="{exact}"/><path class="fitted" d="{fitted}"/>'
        '<text x="{lx}" y="{ty}" class="end">{high}</text>'
        '<text x="{lx}" y="{bottom}" class="end">{low}</text>'
        '<text x="{left}" y="{by}">{first}</text>'
        '<text x="{right}" y="{by}" class="end">{last}</text></svg>'
    ).format(
        w=_WIDTH,
        h=_HEIGHT,
        id=identity,
        title=_told(curve),
        seen=_histogram(curve, across),
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
        exact=line_path(zip(xs, _cut(up.places(curve.exact)), strict=True)),
        fitted=stair_path(list(xs), [round(y, 1) for y in _cut(up.places(curve.fitted))]),
        lx=_LEFT - 4,
        ty=_TOP + 10,
        by=_HEIGHT - 6,
        low=_label(low, high - low),
        high=_label(high, high - low),
        first=_label(curve.x[0], 0 if curve.log else curve.x[-1] - curve.x[0]),
        last=_label(curve.x[-1], 0 if curve.log else curve.x[-1] - curve.x[0]),
    )


def _label(value: float, span: float) -> str:
    """An end of an axis in few characters; what is nothing beside the axis is 0."""
    return "0" if abs(value) < 1e-3 * span else f"{value:.3g}"


def _told(curve: SiteCurve) -> str:
    row = curve.row
    return (
        f"{row.name}: {row.function} of inputs from {figure(row.low)} to {figure(row.high)}, and a "
        f"neuron of {row.steps} steps whose squared error is {percent(row.relative_mse, 2)} of the "
        "function's variance"
    )


def _height(curve: SiteCurve) -> tuple[float, float]:
    """The values that are shown: the function's, and the neuron's where they are near."""
    exact = curve.exact[np.isfinite(curve.exact)]
    fitted = curve.fitted[np.isfinite(curve.fitted)]
    if not len(exact):
        return -1.0, 1.0
    low, high = float(exact.min()), float(exact.max())
    span = high - low
    if len(fitted):
        space = _OVER * span if span > 0 else math.inf
        low = min(low, max(float(fitted.min()), low - space))
        high = max(high, min(float(fitted.max()), high + space))
    if not high > low:
        return low - max(abs(low), 1.0) / 2, low + max(abs(low), 1.0) / 2
    return low, high


def _cut(places: Floats) -> Floats:
    """Coordinates that stay inside the frame."""
    cut: Floats = np.clip(places, _TOP, _BOTTOM)
    return cut


def _histogram(curve: SiteCurve, across: Axis) -> str:
    if not len(curve.shares) or not curve.shares.max() > 0:
        return ""
    # Square roots: a value that many inputs share would hide all others.
    tall = np.sqrt(curve.shares / curve.shares.max()) * 0.8 * (_BOTTOM - _TOP)
    return bar_path(list(across.places(curve.edges)), list(_BOTTOM - tall), _BOTTOM)
