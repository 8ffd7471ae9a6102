"""What a network is built from: its exact graph, its sites, and what calibration saw of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..calibration.observe import Observed
from ..capture.capture import Captured
from ..common.kept_stages import Stages
from ..sites.find import Site


class Size(NamedTuple):
    """What a neuron has: K time steps for each of the tables that its gates choose from."""

    steps: int
    gates: int = 0

    @property
    def latency(self) -> int:
        """Time steps from input to output: K, and one for the gates."""
        return self.steps + (self.gates > 0)


# The size of every site's neuron, by the name of the site.
Sizes = Mapping[str, Size]


@dataclass(frozen=True)
class Calibrated:
    """A network before its neurons.

    Args:
        captured: the graph; it becomes the spiking network's own. Notes are added to it.
        sites: what gets a neuron, called as modules.
        observed: histograms of their inputs.
        fixed_steps: K of the sites that have one whatever is wanted, by name.
        gates: of every site, by name; where K is chosen, the most.
        batches: calibration batches, if there are any.
        stages: where what is made of it is kept.
    """

    captured: Captured
    sites: list[Site]
    observed: Observed
    fixed_steps: Mapping[str, int]
    gates: Mapping[str, int]
    batches: Iterable[Any] | None
    stages: Stages = field(default_factory=Stages)

    @property
    def device(self) -> torch.device | None:
        """Where the network lives; None for one without tensors."""
        return next((t.device for t in self.captured.graph_module.state_dict().values()), None)
