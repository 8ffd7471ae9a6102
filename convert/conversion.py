"""The one verb: a trained network and calibration data in, a spiking network out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .calibrate import Observed, calibrate, error, problem
from .capture import Captured, capture
from .encode import check as check_encode
from .encode import encode_operands
from .errors import CalibrationError, InputError, SiteError
from .fit.methods import DEFAULT, check, fit_problems
from .fit.problem import Problem, Solution
from .operations import constants_barred, latency_steps, operations
from .report import Report, SiteRow
from .sites import Site, find_sites
from .spiking import SpikingModel
from .swap import neuron_of, swap

# A one-shot iterator is kept in memory up to this size.
KEPT_BYTES = 2 * 1024**3
# A single tensor is calibrated on in batches of this many images.
_BATCH = 128


def to_spiking(
    model: nn.Module,
    calibration: Any,
    *,
    steps: int | Sequence[int] = 8,
    seed: int = 0,
    method: str = DEFAULT,
    per_site_steps: Mapping[str, int] | None = None,
    effort: str = "normal",
    encode: bool | str = False,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> SpikingModel:
    """Replaces every nonlinear activation of a trained network by a fitted few-spikes neuron.

    Args:
        model: any module that `torch.export` takes; it is left as it was.
        calibration: unlabelled or labelled batches: a DataLoader, any iterable of tensors
            ``[N, ...]``, ``(inputs, label)`` pairs or dicts of keyword inputs, or one tensor.
        steps: K of every neuron; of several, the first is the network's own and the others are
            fitted beside it (`SpikingModel.with_steps`).
        seed: of everything random; the same seed gives the same network.
        method: a key of `convert.fit.methods.METHODS`.
        per_site_steps: another K for sites by name or glob (``{"layer4.*": 12}``).
        effort: ``"normal"``, or ``"high"`` for about ten times the work of fitting.
        encode: True puts an identity neuron on every analog operand of a product or a weight
            layer (query, key, value, a norm's or a product's output), so that every multiplication
            is driven by spikes; ``"all"`` on the image too.
        device: where the result lives; the model's device if None.
        progress: shows bars on stderr when that is a terminal.

    Raises:
        ConversionError: a subclass for a model, data or a setting that can't be used.
    """
    wanted = _steps(steps)
    check(method, effort)
    check_encode(encode)
    batches = _batches(calibration)
    first = next(iter(batches), None)
    if first is None:
        raise CalibrationError("the calibration data yields no batch; give at least one image")
    seconds: dict[str, float] = {}
    with _timed(seconds, "capture"):
        captured = capture(model, first, device=device)
        sites = encode_operands(captured.graph_module, find_sites(captured.graph_module), encode)
        chosen = _per_site(sites, wanted, per_site_steps or {})
    target = next((t.device for t in captured.graph_module.state_dict().values()), device)
    with _timed(seconds, "calibrate"):
        observed = calibrate(captured, sites, batches, device=target, progress=progress)
    with _timed(seconds, "fit"):
        barred = constants_barred(captured.graph_module, {site.module for site in sites})
        problems = [
            problem(
                site,
                observed.histograms[site.name],
                chosen[k][site.name],
                offset=site.module not in barred,
            )
            for k in wanted
            for site in sites
        ]
        solutions = fit_problems(problems, method, seed=seed, effort=effort, progress=progress)
    report = _report(captured, sites, observed, problems, solutions, method, seed, seconds)
    model = _assemble(captured, sites, wanted, problems, solutions, report)
    model.histograms = observed.histograms
    return model


def _assemble(
    captured: Captured,
    sites: Sequence[Site],
    wanted: Sequence[int],
    problems: Sequence[Problem],
    solutions: Sequence[Solution],
    report: Report,
) -> SpikingModel:
    fitted: list[dict[str, Any]] = []
    for index in range(len(wanted)):
        part = slice(index * len(sites), (index + 1) * len(sites))
        neurons = {}
        for site, p, solution in zip(sites, problems[part], solutions[part], strict=True):
            wide = site.node.meta["val"].dtype == torch.float64
            dtype = torch.float64 if wide else torch.float32
            neurons[site.name] = neuron_of(solution, p, dtype=dtype)
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


def _steps(steps: Any) -> list[int]:
    wanted = list(steps) if isinstance(steps, list | tuple) else [steps]
    for k in wanted:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"steps must be a whole number K >= 1 (or several), found {steps!r}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"steps must name every K once, found {steps!r}")
    return wanted


def _per_site(
    sites: Sequence[Site], wanted: Sequence[int], patterns: Mapping[str, int]
) -> dict[int, dict[str, int]]:
    """K of every site, for each of the wanted K."""
    special: dict[str, int] = {}
    for pattern, k in patterns.items():
        matched = [site.name for site in sites if fnmatchcase(site.name, pattern)]
        if not matched:
            known = ", ".join(site.name for site in sites[:5])
            raise SiteError(f"per_site_steps: no site matches {pattern!r}; there are e.g. {known}")
        special.update(dict.fromkeys(matched, _steps(k)[0]))
    return {k: {site.name: special.get(site.name, k) for site in sites} for k in wanted}


def _batches(calibration: Any) -> Iterable[Any]:
    """Calibration batches that can be read twice."""
    if isinstance(calibration, Tensor):
        if calibration.dim() == 0 or not len(calibration):
            raise CalibrationError(
                f"the calibration tensor has shape {tuple(calibration.shape)}; give [images, ...]"
            )
        return calibration.split(_BATCH)
    if isinstance(calibration, Mapping):
        return [calibration]
    if not isinstance(calibration, Iterable):
        raise CalibrationError(
            f"the calibration data is a {type(calibration).__name__}; give a DataLoader, an "
            "iterable of batches, or one tensor of images"
        )
    if not isinstance(calibration, Iterator):
        return calibration
    kept, held = [], 0
    for batch in calibration:
        leaves = pytree.tree_leaves(batch)
        held += sum(t.numel() * t.element_size() for t in leaves if isinstance(t, Tensor))
        if held > KEPT_BYTES:
            raise CalibrationError(
                f"the calibration iterator holds more than {KEPT_BYTES / 1024**3:.0f} GiB and can "
                "be read only once; give a DataLoader or a list of batches instead"
            )
        kept.append(batch)
    return kept


class _timed:
    """Adds the seconds of a block to a dict."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = time.perf_counter() - self.start
