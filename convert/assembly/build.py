"""From what calibration saw to the network: fit every site, swap, and say what was done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..calibration.histogram import Histogram
from ..calibration.observe import Observed
from ..fitting.methods import fit_problems, warm_up
from ..fitting.problem import Problem, Solution
from ..graph.capture import Captured
from ..graph.chains import constants_barred, latency_steps
from ..graph.roles import operations
from ..network.model import SpikingModel
from ..network.report import Report, SiteRow
from ..sites.find import Site
from .bias_correction import correct
from .fit_targets import error, problem
from .insert_neurons import neuron_of, swap
from .settings import Automatic, steps_by_site
from .steps_per_site import Solutions, choose


class timed:
    """Adds the seconds of a block to a dict."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = time.perf_counter() - self.start


def build(
    captured: Captured,
    sites: Sequence[Site],
    observed: Observed,
    wanted: Sequence[int] | Automatic,
    fixed: Mapping[str, int],
    batches: Iterable[Any] | None,
    *,
    method: str,
    seed: int,
    effort: str,
    seconds: dict[str, float],
    progress: bool,
    sequential: bool,
) -> SpikingModel:
    """The spiking network of a captured graph.

    Args:
        captured: the graph; it becomes the spiking network's own.
        sites: what gets a neuron.
        observed: histograms of their inputs.
        wanted: every K that is wanted, the first is the network's; or how K is chosen.
        fixed: K of sites that have one of their own, by name.
        batches: calibration batches, if there are any.
        method, seed, effort, progress, sequential: as for `to_spiking`.
        seconds: of the stages before; those of the fit are added.
    """
    with timed(seconds, "compile"):
        warm_up(method, progress=progress)
    settings: dict[str, Any] = {"method": method, "seed": seed, "effort": effort}
    settings["progress"] = progress
    known: Solutions = {}
    if isinstance(wanted, Automatic):
        with timed(seconds, "choose"):
            choice = choose(captured, sites, observed, batches, wanted, fixed, **settings)
        chosen, known = {max(choice.steps.values()): choice.steps}, choice.solutions
        captured.notes.append(choice.note)
    else:
        chosen = steps_by_site(sites, wanted, fixed)
    with timed(seconds, "fit"):
        barred = constants_barred(captured.graph_module, {site.module for site in sites})
        problems = [
            problem(
                site,
                observed.histograms[site.name],
                steps[site.name],
                offset=site.module not in barred,
            )
            for steps in chosen.values()
            for site in sites
        ]
        missing = [p for p in problems if (p.name, p.steps) not in known]
        found = fit_problems(missing, **settings)
        fitted = known | dict(zip([(p.name, p.steps) for p in missing], found, strict=True))
        solutions = [fitted[p.name, p.steps] for p in problems]
    report = _report(captured, sites, observed, problems, solutions, method, seed, seconds)
    model = _assemble(captured, sites, list(chosen), observed.histograms, solutions, report)
    model.histograms = observed.histograms
    if sequential and batches is not None:
        with timed(seconds, "correct"):
            report.corrections += correct(model, list(chosen), batches, progress=progress)
    return model


def _assemble(
    captured: Captured,
    sites: Sequence[Site],
    wanted: Sequence[int],
    seen: Mapping[str, Histogram],
    solutions: Sequence[Solution],
    report: Report,
) -> SpikingModel:
    fitted: list[dict[str, Any]] = []
    for index in range(len(wanted)):
        part = slice(index * len(sites), (index + 1) * len(sites))
        neurons = {}
        for site, solution in zip(sites, solutions[part], strict=True):
            wide = site.node.meta["val"].dtype == torch.float64
            dtype = torch.float64 if wide else torch.float32
            neurons[site.name] = neuron_of(solution, seen[site.name], dtype=dtype)
        fitted.append(neurons)
    model = swap(captured, sites, fitted[0])
    model.report = report
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    for k, neurons in zip(wanted[1:], fitted[1:], strict=True):
        model.add_refit(k, {name: neuron.to(device) for name, neuron in neurons.items()})
    return model.eval()


def _report(
    captured: Captured,
    sites: Sequence[Site],
    observed: Observed,
    problems: Sequence[Problem],
    solutions: Sequence[Solution],
    method: str,
    seed: int,
    seconds: dict[str, float],
) -> Report:
    rows = []
    for site, p, solution in zip(sites, problems, solutions, strict=False):
        histogram = observed.histograms[site.name]
        mse, variance = error(site, histogram, solution)
        rows.append(
            SiteRow(
                name=site.name,
                function=site.label,
                steps=p.steps,
                low=histogram.low,
                high=histogram.high,
                mse=mse,
                relative_mse=mse / variance if variance > 0 else 0.0,
                start=solution.start,
                neurons=observed.neurons[site.name],
            )
        )
    paths = {site.module: p.steps for site, p in zip(sites, problems, strict=False)}
    found = operations(captured.graph_module, set(paths))
    latency = latency_steps(captured.graph_module, paths)
    notes = list(captured.notes)
    ranges = observed.input_ranges
    return Report(rows, found, latency, method, seed, observed.images, seconds, notes, ranges)
