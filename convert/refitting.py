"""Fitting the neurons of a spiking network anew: another K, another method, other data."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from .assembly.build import build, timed
from .assembly.settings import automatic, fixed_steps, wanted_steps
from .calibration.observe import Observed, calibrate
from .common.batches import batches_of
from .errors import CalibrationError
from .fitting.methods import DEFAULT, check
from .graph.capture import Captured
from .network.model import SpikingModel
from .sites.find import Site

_NO_DATA = "biases stay as trained: without calibration data no mean error can be measured"


def refit(
    snn: SpikingModel,
    calibration: Any = None,
    *,
    steps: int | Sequence[int] | str = 8,
    max_loss: float | None = None,
    budget: int | None = None,
    seed: int = 0,
    method: str = DEFAULT,
    per_site_steps: Mapping[str, int] | None = None,
    effort: str = "normal",
    sequential: bool = True,
    progress: bool = True,
) -> SpikingModel:
    """The same network with new neurons; the model that it came from isn't needed.

    Args:
        snn: a converted or loaded network; it is left as it was, and its weights are copied as
            they are now (after fine-tuning too).
        calibration: data as for `to_spiking`; None for what calibration saw before, which a saved
            network carries along.
        steps, max_loss, budget, seed, method, per_site_steps, effort, progress: as for
            `to_spiking`.
        sequential: as for `to_spiking`, if there is calibration data.

    Raises:
        ConversionError: a subclass for data or a setting that can't be used.
    """
    chosen_by = automatic(steps, max_loss, budget)
    wanted = [] if chosen_by else wanted_steps(steps)
    batches = None if calibration is None else batches_of(calibration)
    check(method, effort, seed)
    captured, sites = _exact(snn)
    fixed = fixed_steps(sites, per_site_steps or {})
    seconds: dict[str, float] = {}
    with timed(seconds, "calibrate"):
        observed = _observed(snn, captured, sites, batches, seed, progress)
    # What the operations are doesn't depend on K; a loaded graph has lost the batch's symbol.
    moved = snn.report.of_graph(captured.graph_module.graph) if snn.report is not None else None
    captured.notes[:] = [
        note for note in captured.notes if not note.startswith((_NO_DATA, "steps per site"))
    ]
    if sequential and batches is None:
        captured.notes.append(_NO_DATA)
    result = build(
        captured,
        sites,
        observed,
        chosen_by or wanted,
        fixed,
        batches,
        method=method,
        seed=seed,
        effort=effort,
        seconds=seconds,
        progress=progress,
        sequential=sequential,
    )
    if moved is not None and result.report is not None:
        result.report = dataclasses.replace(result.report, operations=moved.operations)
    result.metadata = copy.deepcopy(snn.metadata)
    return result


def _exact(snn: SpikingModel) -> tuple[Captured, list[Site]]:
    """A copy of the network with its exact functions, and its sites."""
    copied = copy.deepcopy(snn)
    network = copied.with_exact_functions()
    notes = list(snn.report.notes) if snn.report is not None else []
    labels = {row.name: row.function for row in snn.report.sites} if snn.report else {}
    calls = {str(node.target): node for node in network.graph.nodes if node.op == "call_module"}
    sites = [
        Site(name, copied.exact[path.rpartition(".")[2]], labels.get(name, name), path, calls[path])  # type: ignore[arg-type]
        for name, path in copied.names.items()
    ]
    return Captured(network, copied.signature, 0.0, notes), sites


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
    if snn.report is None or set(snn.histograms) != {site.name for site in sites}:
        raise CalibrationError(
            "the network doesn't carry what calibration saw; give calibration data"
        )
    neurons = {row.name: row.neurons for row in snn.report.sites}
    report = snn.report
    return Observed(
        dict(snn.histograms), neurons, report.calibration_images, list(report.input_ranges)
    )
