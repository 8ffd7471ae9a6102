"""Fitting the neurons of a spiking network anew: another K, another method, other data."""

from __future__ import annotations

import copy
import dataclasses
import glob
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.fx import Node

from .assembly.build import build
from .assembly.calibrated import Calibrated
from .assembly.on_ranks import check_alike
from .assembly.site_numbers import by_site, gates_of
from .calibration.observe import Observed, calibrate
from .capture.capture import Captured
from .common.batches import batches_of
from .common.ranks import together
from .common.timing import timed
from .errors import CalibrationError, InputError
from .fitting.problem import warn_of_many_steps
from .inspect.size_costs import costs_of
from .network.from_file import errors_named
from .network.model import SpikingModel
from .network.settings import ConversionSettings
from .parts.assembling import exchanged
from .parts.converting import named
from .parts.model import SpikingParts
from .parts.part_settings import check_settings, numbers_of_parts
from .parts.report import output_error
from .sites.find import Site

_NO_DATA = "biases stay as trained: without calibration data no mean error can be measured"
_NO_SETTINGS = (
    "the network comes from a file that keeps no settings: steps, method and seed are told from "
    "its neurons and its report, every other setting is the default where none was given"
)


@together
def refit(
    snn: SpikingModel,
    calibration: Any = None,
    *,
    steps: int | Sequence[int] | str | None = None,
    max_loss: float | None = None,
    budget: int | None = None,
    budget_spikes: float | None = None,
    budget_operations: float | None = None,
    budget_energy: float | None = None,
    spike_cost: float | None = None,
    seed: int | None = None,
    method: str | None = None,
    per_site_steps: Mapping[str, int] | None = None,
    gates: int | None = None,
    per_site_gates: Mapping[str, int] | None = None,
    effort: str | None = None,
    sequential: bool | None = None,
    progress: bool = True,
) -> SpikingModel:
    """The same network with new neurons; the model that it came from isn't needed.

    A setting that is None stays what the network was converted (or refitted) with. Files of
    before settings were kept tell steps, method and seed; every other setting is the default then,
    and a note of the report says so.

    Args:
        snn: a converted or loaded network; it is left as it was, and its weights are copied as
            they are now (after fine-tuning too).
        calibration: data as for `to_spiking`; None for what calibration saw before, which a saved
            network carries along.
        steps: as for `to_spiking`. A number, or several, ends an automatic choice.
        max_loss, budget, budget_spikes, budget_operations, budget_energy: as for `to_spiking`, if K
            is chosen; one takes the place of the others. The last two need calibration data.
        spike_cost: as for `to_spiking`; 0 for no price.
        seed, method, effort: as for `to_spiking`.
        per_site_steps: as for `to_spiking`; ``{}`` gives every site the network's K.
        gates: as for `to_spiking`.
        per_site_gates: as for `to_spiking`; ``{}`` gives every site the network's gates.
        sequential: as for `to_spiking`, if there is calibration data.
        progress: shows bars on stderr; one line a minute where that is no terminal.

    Raises:
        ConversionError: a subclass for data or a setting that can't be used.
    """
    if not isinstance(snn, SpikingModel):
        raise InputError(
            f"refit takes a converted network first, then data; found a {type(snn).__name__}"
        )
    settings, told = settings_of(
        snn,
        {
            "steps": steps,
            "max_loss": max_loss,
            "budget": budget,
            "budget_spikes": budget_spikes,
            "budget_operations": budget_operations,
            "budget_energy": budget_energy,
            "spike_cost": spike_cost,
            "seed": seed,
            "method": method,
            "per_site_steps": per_site_steps,
            "gates": gates,
            "per_site_gates": per_site_gates,
            "effort": effort,
            "sequential": sequential,
        },
    )
    if steps is not None or per_site_steps is not None:
        warn_of_many_steps((*settings.wanted, *settings.per_site_steps.values()), stacklevel=4)
    return refitted(snn, settings, calibration, told=told, progress=progress)


def refitted(
    snn: SpikingModel,
    settings: ConversionSettings,
    calibration: Any,
    *,
    told: bool = False,
    anew: bool = True,
    progress: bool = True,
) -> SpikingModel:
    """The network with neurons of other settings.

    Args:
        snn: the network; it is left as it was.
        settings: of the new neurons.
        calibration: data as for `refit`, or None.
        told: whether settings had to be told from the neurons.
        anew: whether the data is calibrated on; else only mean errors and the outputs' error are
            measured on it, where the network carries what calibration saw.
        progress: shows bars on stderr.
    """
    if isinstance(snn, SpikingParts):
        return _refitted_parts(snn, settings, calibration, told, anew, progress)
    captured, sites = _exact(snn)
    check_alike(captured, settings)
    batches = None if calibration is None else _batches(calibration, captured)
    fixed = by_site(sites, settings.per_site_steps, "per_site_steps")
    gated = gates_of(sites, settings)
    seconds: dict[str, float] = {}
    with timed(seconds, "calibrate"):
        seen = batches if anew or not _carries(snn, sites) else None
        observed = _observed(snn, captured, sites, seen, settings.seed, progress)
    # What the operations are doesn't depend on K; a loaded graph has lost the batch's symbol.
    moved = snn.report.of_graph(captured.graph_module.graph) if snn.report is not None else None
    captured.notes[:] = [
        note for note in captured.notes if not note.startswith((_NO_DATA, "steps per site"))
    ]
    captured.tell_readings()
    if told:
        captured.notes.append(_NO_SETTINGS)
    if settings.sequential and batches is None:
        captured.notes.append(_NO_DATA)
    source = Calibrated(captured, sites, observed, fixed, gated, batches)
    # No data of the user's is run here, whose errors were their own.
    with errors_named() if snn.from_file and batches is None else nullcontext():
        costs = costs_of(source, settings.automatic)
        result = build(source, settings, costs=costs, seconds=seconds, progress=progress)
    if moved is not None and result.report is not None:
        result.report = dataclasses.replace(result.report, operations=moved.operations)
    result.metadata = copy.deepcopy(snn.metadata)
    return result


def _refitted_parts(
    snn: SpikingParts,
    settings: ConversionSettings,
    calibration: Any,
    told: bool,
    anew: bool,
    progress: bool,
) -> SpikingParts:
    """The same for a model with converted parts: each is fitted anew by itself."""
    check_settings(settings)
    own = numbers_of_parts(settings, {name: list(n.names) for name, n in snn.parts.items()})
    recording, calls = (None, {}) if calibration is None else snn.recorded(calibration)
    networks, rows = {}, []
    for row, (name, network) in zip(snn.report.parts, snn.parts.items(), strict=True):
        if recording is not None and name not in calls:
            raise CalibrationError(
                f"the part {name} isn't called on this data; give data that reaches it"
            )
        with named(name):
            made = refitted(
                network, own[name], calls.get(name), told=told, anew=anew, progress=progress
            )
        networks[name] = made
        if recording is not None and made.report is not None:
            row = dataclasses.replace(
                row,
                calls=len(calls[name]) / recording.runs,
                per_image=made.report.calibration_images / recording.images
                if anew
                else row.per_image,
            )
        rows.append(dataclasses.replace(row, error=output_error(made)))
    seen = recording is not None and anew
    images = recording.images if recording is not None and seen else snn.report.calibration_images
    return exchanged(snn, networks, settings, rows, images)


def _batches(calibration: Any, captured: Captured) -> Iterable[Any]:
    """Calibration data as the network takes it."""
    signature = captured.signature
    return signature.within(captured.batches(batches_of(calibration, signature.cut_axis)))


def settings_of(
    snn: SpikingModel, given: Mapping[str, Any] | None = None
) -> tuple[ConversionSettings, bool]:
    """The network's settings with those that are given, and whether they had to be told.

    Args:
        snn: the network.
        given: settings by name; None for one that isn't given.
    """
    given = given or {}
    if snn.report is not None and snn.report.settings is not None:
        return snn.report.settings.changed(given), False
    known: dict[str, Any] = {}
    if snn.report is not None:
        known = {"method": snn.report.method, "seed": snn.report.seed}
    if given.get("steps") is None:
        known |= _told_steps(snn)
    named = {name: value for name, value in given.items() if value is not None}
    return ConversionSettings(**known | named), True


def _told_steps(snn: SpikingModel) -> dict[str, Any]:
    """Steps as the neurons have them; a site with other steps than most keeps its own."""
    steps = {name: neuron.steps for name, neuron in snn.sites.items()}
    own, beside = snn.fitted_as, [int(k) for k in snn.refitted]
    special = {glob.escape(name): k for name, k in steps.items() if k != own}
    return {"steps": [own, *(k for k in beside if k != own)], "per_site_steps": special}


def _exact(snn: SpikingModel) -> tuple[Captured, list[Site]]:
    """A copy of the network with its exact functions, and its sites."""
    copied = copy.deepcopy(snn)
    network = copied.with_exact_functions()
    notes = list(snn.report.notes) if snn.report is not None else []
    labels = {row.name: row.function for row in snn.report.sites} if snn.report else {}
    calls: dict[str, list[Node]] = {}
    for node in network.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    sites = []
    for name, path in copied.names.items():
        function: Any = copied.exact[path.rpartition(".")[2]]
        first, *later = calls[path]
        sites.append(Site(name, function, labels.get(name, name), path, first, tuple(later)))
    return Captured(network, copied.signature, 0.0, notes, copied.reader()), sites


def _carries(snn: SpikingModel, sites: Sequence[Site]) -> bool:
    """Whether the network carries what calibration saw of these sites."""
    return snn.report is not None and set(snn.histograms) == {site.name for site in sites}


def _observed(
    snn: SpikingModel,
    captured: Captured,
    sites: list[Site],
    batches: Iterable[Any] | None,
    seed: int,
    progress: bool,
) -> Observed:
    if batches is not None:
        device = next((t.device for t in captured.graph_module.state_dict().values()), None)
        with torch.no_grad():
            return calibrate(captured, sites, batches, device=device, seed=seed, progress=progress)
    if not _carries(snn, sites):
        raise CalibrationError(
            "the network doesn't carry what calibration saw; give calibration data"
        )
    report = snn.report
    assert report is not None
    neurons = {row.name: row.neurons for row in report.sites}
    return Observed(
        dict(snn.histograms), neurons, report.calibration_images, list(report.input_ranges)
    )
