"""From what calibration saw to the network: fit every site, swap, and say what was done."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch

from ..common.timing import timed
from ..graph.chains import latency_steps
from ..graph.roles import operations
from ..network.model import SpikingModel
from ..network.report import OutputError, Report, SiteRow
from ..network.settings import ConversionSettings
from ..sites.find import Site
from .bias_correction import correct
from .biased_layers import left_out
from .calibrated import Calibrated, Size, Sizes
from .fit_targets import error
from .insert_neurons import swap
from .kept_corrections import kept_for, of_neurons
from .output_error import output_errors
from .side_by_side import Sample
from .site_fits import SiteFits
from .spike_prices import expected_events
from .steps_per_site import SizeCosts, choose


def build(
    source: Calibrated,
    settings: ConversionSettings,
    *,
    costs: SizeCosts | None = None,
    seconds: dict[str, float],
    part: str = "",
    progress: bool = False,
) -> SpikingModel:
    """The spiking network of a captured graph.

    Args:
        source: the graph and what calibration saw of it.
        settings: of the conversion.
        costs: of every size, where they have a budget.
        seconds: of the stages before; those of the stages here are added.
        part: the name of the module in a model, where it is one.
        progress: shows bars on stderr.
    """
    fits = SiteFits(source, settings, progress=progress)
    with timed(seconds, "compile"):
        fits.warm_up()
    wanted = _wanted(fits, settings, costs, seconds, progress)
    with timed(seconds, "fit"):
        fits.fit((site, sizes[site.name]) for sizes in wanted.values() for site in source.sites)
    report = _report(fits, next(iter(wanted.values())), settings, seconds)
    model = _assemble(fits, wanted, report)
    if source.batches is not None:
        with timed(seconds, "correct"):
            sample = _sample(model, source.batches)
            stages = kept_for(source.stages, sample)
            if settings.sequential:
                report.corrections += correct(model, sample, stages=stages, progress=progress)
                found = left_out(model.network, set(model.names.values()))
                report.notes += [note for note in found if note not in report.notes]
        with timed(seconds, "check"):
            report.output_errors += stages.under(facts=partial(of_neurons, model)).once(
                "check",
                partial(
                    output_errors,
                    model,
                    sample,
                    report.corrections,
                    partial(fits.neurons, next(iter(wanted.values()))),
                    progress=progress,
                ),
                (OutputError,),
            )
        if report.output_errors[0].poor:
            warnings.warn(str(report.output_errors[0].within(part)), stacklevel=4)
    return model


def _sample(model: SpikingModel, batches: Iterable[Any]) -> Sample:
    """Calibration images for a converted network."""
    exact = {path: model.exact[path.rpartition(".")[2]] for path in model.names.values()}
    device = next((t.device for t in model.network.state_dict().values()), None)
    return Sample(model.network, exact, model.signature, batches, device)


def _wanted(
    fits: SiteFits,
    settings: ConversionSettings,
    costs: SizeCosts | None,
    seconds: dict[str, float],
    progress: bool,
) -> dict[int, Sizes]:
    """The size of every site, for every K that the network is fitted as; its own comes first."""
    source = fits.source
    if settings.automatic is None:
        return {
            k: {
                site.name: Size(source.fixed_steps.get(site.name, k), source.gates[site.name])
                for site in source.sites
            }
            for k in settings.wanted
        }
    with timed(seconds, "choose"):
        choice = choose(fits, settings.automatic, costs, progress=progress)
    source.captured.notes.append(choice.note)
    # Nobody asked for a K: the network is called after the most steps of a site.
    return {max(size.steps for size in choice.sizes.values()): choice.sizes}


def _assemble(fits: SiteFits, wanted: Mapping[int, Sizes], report: Report) -> SpikingModel:
    """The network with its neurons, and those of other K beside it."""
    source = fits.source
    (own, neurons), *others = [(k, fits.neurons(sizes)) for k, sizes in wanted.items()]
    model = swap(source.captured, source.sites, neurons)
    model.fitted_as = own
    model.report = report
    model.histograms = source.observed.histograms
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    for k, neurons in others:
        model.add_refit(k, {name: neuron.to(device) for name, neuron in neurons.items()})
    return model.eval()


def _report(
    fits: SiteFits, sizes: Sizes, settings: ConversionSettings, seconds: dict[str, float]
) -> Report:
    """What was done; the sizes are those of the network's own neurons."""
    source = fits.source
    graph_module, observed = source.captured.graph_module, source.observed
    latencies = {site.module: sizes[site.name].latency for site in source.sites}
    return Report(
        sites=[_row(fits, site, sizes[site.name]) for site in source.sites],
        operations=operations(graph_module, set(latencies)),
        latency_steps=latency_steps(graph_module, latencies),
        method=settings.method,
        seed=settings.seed,
        calibration_images=observed.images,
        seconds=seconds,
        notes=list(source.captured.notes),
        input_ranges=observed.input_ranges,
        settings=settings,
        batch_axis=source.captured.signature.batch_axis,
        mixes_batch=source.captured.signature.mixes,
    )


def _row(fits: SiteFits, site: Site, size: Size) -> SiteRow:
    histogram, solution = fits.source.observed.histograms[site.name], fits.solution(site, size)
    mse, variance = error(site, histogram, solution)
    return SiteRow(
        name=site.name,
        function=site.label,
        steps=size.steps,
        gates=len(solution.gates),
        low=histogram.low,
        high=histogram.high,
        mse=mse,
        relative_mse=mse / variance if variance > 0 else 0.0,
        start=solution.start,
        neurons=fits.source.observed.neurons[site.name],
        events=expected_events(histogram, solution),
        calls=len(site.calls),
    )
