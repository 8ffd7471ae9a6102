"""What a network is built from: its exact graph, its sites, and what calibration saw of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..calibration.observe import Observed
from ..capture.capture import Captured
from ..sites.find import Site

# K of every site, by its name.
SiteK = Mapping[str, int]


@dataclass(frozen=True)
class Calibrated:
    """A network before its neurons.

    Args:
        captured: the graph; it becomes the spiking network's own. Notes are added to it.
        sites: what gets a neuron, called as modules.
        observed: histograms of their inputs.
        fixed: K of the sites that have one whatever is wanted, by name.
        batches: calibration batches, if there are any.
    """

    captured: Captured
    sites: list[Site]
    observed: Observed
    fixed: SiteK
    batches: Iterable[Any] | None

    @property
    def device(self) -> torch.device | None:
        """Where the network lives; None for one without tensors."""
        return next((t.device for t in self.captured.graph_module.state_dict().values()), None)
