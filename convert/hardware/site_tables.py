"""The neurons of a network with whole output weights, fitted to what calibration saw."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from ..assembly.calibrated import Calibrated, Size
from ..assembly.insert_neurons import neuron_of
from ..assembly.site_fits import SiteFits
from ..calibration.observe import Observed
from ..capture.capture import Captured
from ..common.progress import Progress
from ..errors import CalibrationError
from ..fitting.problem import Problem, Solution
from ..fitting.whole_weights import Whole, WholeTable, fit_whole
from ..network.model import SpikingModel
from ..network.settings import ConversionSettings
from ..neuron.few_spikes import FewSpikesNeuron
from ..sites.find import Site


def problems_of(snn: SpikingModel) -> dict[str, Problem]:
    """What the neurons of a network were fitted to, by the name of their site.

    Raises:
        CalibrationError: if the network doesn't carry what calibration saw.
    """
    neurons = {n: m for n, m in snn.sites.items() if isinstance(m, FewSpikesNeuron)}
    missing = [name for name in neurons if name not in snn.histograms]
    if missing or snn.report is None:
        raise CalibrationError(
            f"the network doesn't carry what calibration saw of {', '.join(missing[:3])}; convert "
            "it, or refit it with calibration data"
        )
    calls: dict[str, list[Node]] = {}
    for node in snn.network.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    sites = []
    for row in snn.report.sites:
        if row.name in neurons:
            path = snn.names[row.name]
            function = snn.exact[path.rpartition(".")[2]]
            first, *later = calls[path]
            sites.append(Site(row.name, function, row.function, path, first, tuple(later)))  # type: ignore[arg-type]
    gates = {name: neuron.intervals - 1 for name, neuron in neurons.items()}
    counts = {row.name: row.neurons for row in snn.report.sites}
    observed = Observed(
        dict(snn.histograms), counts, snn.report.calibration_images, list(snn.report.input_ranges)
    )
    captured = Captured(snn.network, snn.signature, 0.0, [], snn.reader())
    fits = SiteFits(
        Calibrated(captured, sites, observed, {}, gates, None), ConversionSettings(steps=1)
    )
    return {
        site.name: fits.problem(site, Size(neurons[site.name].steps, gates[site.name]))
        for site in sites
    }


def solution_of(neuron: FewSpikesNeuron) -> Solution:
    """The numbers of a neuron as a fit gives them."""

    def numbers(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().double().cpu().numpy()

    T, h, d = map(numbers, (neuron.thresholds, neuron.resets, neuron.weights))
    if neuron.gates is None:
        return Solution(T, h, d, float(neuron.offset), 0.0, "given")
    gates = numbers(neuron.gates)
    return Solution(T, h, d, numbers(neuron.offset), 0.0, "given", gates=gates)


def fit_tables(
    snn: SpikingModel, whole: Whole, *, progress: bool = False
) -> tuple[dict[str, WholeTable], dict[str, Problem]]:
    """Every site's neuron with whole output weights, and what it was fitted to, by site.

    Args:
        snn: the network, inside `with_steps` with those neurons.
        whole: which numbers output weights may be.
        progress: shows a bar on stderr.
    """
    problems, neurons = problems_of(snn), snn.sites
    tables = {}
    for name, problem in Progress(list(problems.items()), "fit", shown=progress):
        tables[name] = fit_whole(problem, solution_of(neurons[name]), whole)
    return tables, problems


def neuron_with(table: WholeTable, snn: SpikingModel, site: str) -> FewSpikesNeuron:
    """The neuron of a table, its thresholds as conversion sets them."""
    return neuron_of(table.solution(), snn.histograms[site])
