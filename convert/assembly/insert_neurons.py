"""Graph and fitted neurons in, a SpikingModel out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from ..calibration.histogram import HIDDEN, Histogram
from ..capture.capture import Captured
from ..fitting.problem import Solution, Start
from ..fitting.stairs import LOWEST
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from ..sites.find import Site


def neuron_of(
    solution: Solution, seen: Histogram, *, dtype: torch.dtype = torch.float32
) -> FewSpikesNeuron:
    """The neuron of a solution, with the means that its anytime readout adds.

    These are of the values as often as they occur: whatever a value does to the outputs, the bias
    of the next layer could take a mean error out.
    """
    neuron = FewSpikesNeuron(
        _always(solution, seen),
        solution.resets,
        solution.weights,
        solution.offset,
        solution.gates,
        dtype=dtype,
    )
    centres = torch.from_numpy(seen.centres).to(dtype)
    neuron.set_missing_means(centres, torch.from_numpy(seen.counts / seen.total))
    return neuron


def _always(solution: Solution, seen: Histogram) -> npt.NDArray[np.float64]:
    """The thresholds; those that every value seen exceeds, lowered to where every value does.

    Else an input just below the calibrated range, where errors of the sites before may bring it,
    would give 0 and not f of the range's end: an inverse root of nearly constant values would.
    With gates that holds for the lowest interval, which alone goes on below. What a mask hides by a
    finite number stays below every threshold.
    """
    thresholds = np.array(solution.thresholds, np.float64)
    if Start.STAIRS in solution.start:
        return thresholds  # a jump that no value lies below is still where it is
    v = np.concatenate([seen.centres, [seen.low, seen.high]])
    table, resets = thresholds, solution.resets
    if len(solution.gates):
        v, table, resets = v[v <= solution.gates[0]], thresholds[0], resets[0]
    for t, threshold in enumerate(table):
        fires = v > threshold
        if fires.all():
            table[t] = HIDDEN / 2 if seen.hides else LOWEST
        v = v - resets[t] * fires
    return thresholds


def swap(
    captured: Captured, sites: Sequence[Site], neurons: Mapping[str, FewSpikesNeuron]
) -> SpikingModel:
    """Puts every site's neuron where its exact function is called.

    The captured graph becomes the spiking network's own; the exact functions travel beside it.
    """
    network = captured.graph_module
    exact: dict[str, torch.nn.Module] = {}
    device = next((t.device for t in network.state_dict().values()), torch.device("cpu"))
    for site in sites:
        exact[site.module] = site.function
        parent, _, name = site.module.rpartition(".")
        setattr(
            network.get_submodule(parent), name, neurons[site.name].to(device, non_blocking=True)
        )
    names = {site.name: site.module for site in sites}
    return SpikingModel(network, exact, captured.signature, names).eval()
