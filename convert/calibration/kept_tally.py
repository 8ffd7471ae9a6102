"""What calibration counted so far, as values that are kept, and back."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .histogram import MOST_CELLS, Histogram
from .importance import Observer

# A site's histogram at most: index, count and mass of every cell; twice while it is replaced.
STAGE_BYTES = 2 * 3 * 8 * MOST_CELLS


def state_of(
    histograms: dict[str, Histogram], elements: dict[Node, int], network: Observer
) -> dict[str, Any]:
    """What was counted, between two batches.

    Args:
        histograms: by the name of the site.
        elements: how many inputs each call had.
        network: what tells them.
    """
    return {
        "histograms": histograms,
        "elements": list(elements.values()),
        "network": network.state(),
    }


def restore(
    histograms: dict[str, Histogram],
    elements: dict[Node, int],
    network: Observer,
    state: dict[str, Any],
) -> None:
    """Puts what `state_of` gave in place of what was counted."""
    histograms.update(state["histograms"])
    elements.update(zip(elements, state["elements"], strict=True))
    network.restore(state["network"])
