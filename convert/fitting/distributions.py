"""Distributions of a neuron's inputs: histograms to fit under, and fresh points to measure on."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import numpy.typing as npt

from ..errors import FitError
from .problem import Array

Density = tuple[npt.ArrayLike, npt.ArrayLike]

_BINS = 16384
# Of a normal distribution, all but 2e-9 lies within so many standard deviations.
_SIGMAS = 6.0
FRESH_POINTS = 400_000


def distribution(
    *,
    low: float | None = None,
    high: float | None = None,
    normal: tuple[float, float] | None = None,
    density: Density | None = None,
) -> tuple[Array, Array]:
    """Bin edges ``[B + 1]`` and probabilities ``[B]`` of an input distribution.

    Args:
        low, high: a uniform distribution between them.
        normal: mean and standard deviation of a normal distribution.
        density: bin edges ``[B + 1]`` and weights ``[B]`` of a histogram.

    Raises:
        FitError: unless exactly one of the three is given, and makes sense.
    """
    given = [low is not None or high is not None, normal is not None, density is not None]
    if sum(given) != 1:
        raise FitError("say what the inputs look like: low= and high=, or normal=, or density=")
    if density is not None:
        edges, weights = (np.asarray(part, np.float64).ravel() for part in density)
        total = weights.sum()
        if not np.isfinite(total) or total <= 0:
            raise FitError("density= needs finite weights with a positive sum")
        return edges, weights / total
    if normal is not None:
        mean, std = map(float, normal)
        if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
            raise FitError(f"normal= needs a finite mean and a deviation > 0, found {normal}")
        z = np.linspace(-_SIGMAS, _SIGMAS, _BINS + 1)
        weights = np.diff([0.5 * (1 + erf(value / sqrt(2))) for value in z])
        return mean + std * z, weights / weights.sum()
    if low is None or high is None or not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise FitError(f"low= and high= must be finite with low < high, found {low} and {high}")
    return np.linspace(low, high, _BINS + 1), np.full(_BINS, 1.0 / _BINS)


def fresh_points(
    edges: Array, weights: Array, normal: tuple[float, float] | None = None, count: int = 0
) -> Array:
    """Points of a distribution, float64 ``[count]``: quantiles with a random shift in each.

    The seed differs from any that a fit uses. A normal distribution is drawn as it is, its far
    tails included.
    """
    count = count or FRESH_POINTS
    generator = np.random.default_rng([count, 0xF5])
    if normal is not None:
        return np.asarray(generator.normal(*normal, count))
    u = (np.arange(count) + generator.random(count)) / count
    total = np.concatenate([[0.0], np.cumsum(weights)])
    bins = np.clip(np.searchsorted(total, u * total[-1], side="right") - 1, 0, len(weights) - 1)
    inside = (u * total[-1] - total[bins]) / np.where(weights[bins] > 0, weights[bins], 1.0)
    return np.asarray(edges[bins] + np.clip(inside, 0.0, 1.0) * np.diff(edges)[bins])
