"""Graph and fitted neurons in, a SpikingModel out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .capture import Captured
from .fit.problem import Solution
from .histogram import Histogram
from .layout import free_layout, linear_first
from .neuron import FewSpikesNeuron
from .sites import Site
from .spiking import SpikingModel


def neuron_of(
    solution: Solution, seen: Histogram, *, dtype: torch.dtype = torch.float32
) -> FewSpikesNeuron:
    """The neuron of a solution, with the means that its anytime readout adds.

    These are of the values as often as they occur: whatever a value does to the outputs, the bias
    of the next layer could take a mean error out.
    """
    neuron = FewSpikesNeuron(
        solution.thresholds, solution.resets, solution.weights, solution.offset, dtype=dtype
    )
    centres = torch.from_numpy(seen.centres).to(dtype)
    neuron.set_missing_means(centres, torch.from_numpy(seen.counts / seen.total))
    return neuron


def swap(
    captured: Captured, sites: Sequence[Site], neurons: Mapping[str, FewSpikesNeuron]
) -> SpikingModel:
    """Puts every site's neuron where its exact function is called.

    The captured graph becomes the spiking network's own; the exact functions travel beside it.
    """
    network = captured.graph_module
    free_layout(network)
    linear_first(network)
    exact: dict[str, torch.nn.Module] = {}
    device = next((t.device for t in network.state_dict().values()), torch.device("cpu"))
    for site in sites:
        exact[site.module] = site.function
        parent, _, name = site.module.rpartition(".")
        setattr(network.get_submodule(parent), name, neurons[site.name].to(device))
    names = {site.name: site.module for site in sites}
    return SpikingModel(network, exact, captured.signature, names).eval()
