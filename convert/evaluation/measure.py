"""The spiking network against the original: step by step, for every K, and site by site."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sized
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..common.batches import ahead, batches_once
from ..errors import InputError
from ..graph.batch_bounds import BatchBounds
from ..graph.batch_inputs import batch_size, rows
from ..network.model import SpikingModel
from .by_site import errors_by_site
from .measures import Measure
from .metrics import METRICS, metric_named
from .result import Evaluation
from .rows import FittedRow, Row, StepRow, Whole
from .runs import Batch, Plan, Run, device_of, eval_mode, outputs, planned, run_all


def evaluate(
    snn: SpikingModel,
    model: nn.Module | None,
    data: Any,
    *,
    metric: str = "agreement",
    by_site: int = 64,
    at: Collection[int] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Runs both networks on the same batches, the spiking one cut after every step as well.

    Args:
        snn: from `to_spiking`; the other K it was fitted for are evaluated beside it.
        model: the original; evaluated in eval mode on its own device and left as it was. None
            takes `snn.original()`.
        data: batches ``(inputs, labels)`` with class indices ``[N]``; without labels only the
            agreement is measured, and with labels in some batches the accuracy is that of their
            images. A network that takes x and t is given ``(x, t)``, ``(x, t, labels)`` or
            ``((x, t), labels)``. One tensor of images will do, too, or one dict of keyword
            inputs. Read once.
        metric: ``"agreement"`` (or ``"classes"``) of the predicted classes, with accuracy and
            error of the logits, see `convert.evaluation.classes.Agreement`; a network with one
            logit predicts by its sign. ``"output"`` for a network whose outputs are no classes:
            their relative error, see `convert.evaluation.metrics.OutputError`. It needs no labels.
        by_site: images on which each site's own and the accumulated error is measured; 0 for
            none.
        at: steps after which the network is read out beside the last; None for every step.
        progress: shows bars on stderr when that is a terminal.

    Raises:
        InputError: for data without batches, labels that don't fit the outputs, an unknown metric,
            a number of images that is none, or a step that the network doesn't have.
    """
    kind = METRICS[metric_named(metric)]
    wanted = _count(by_site)
    plan = planned(snn, kind, _steps(at, snn.longest))
    original = snn.original() if model is None else model
    both = _Both(snn, original, kind, plan, wanted)
    with torch.no_grad(), eval_mode(original), eval_mode(snn):
        both.add_all(batches_once(data), progress)
    if not both.images:
        raise InputError("the test data yields no image; give at least one batch")
    site_rows = errors_by_site(snn, both.kept, kind, progress=progress) if wanted else ()
    return Evaluation(
        report=snn.report,
        metric=metric_named(metric),
        images=both.images,
        labelled_images=both.exact.labelled,
        original=both.exact.original,
        spiking=_whole(both),
        by_step=tuple(_step_row(both, step) for step in plan.readouts),
        by_K=tuple(FittedRow(k, *_figures(both, run)) for k, run in plan.refits.items()),
        by_site=site_rows,
        by_site_images=min(wanted, both.images),
        spikes_per_neuron={
            site.name: plan.whole.spikes[site.name] / (both.images * site.neurons)
            for site in snn.report.sites
        },
        seconds=both.seconds,
    )


@dataclass
class _Both:
    """Both networks, and what was added up of the batches that went through them."""

    snn: SpikingModel
    original: nn.Module
    kind: type[Measure]
    plan: Plan
    wanted: int
    exact: Measure = field(init=False)
    images: int = 0
    # The first `wanted` images, ``(args, kwargs)`` a batch.
    kept: list[Any] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"evaluate_original": 0.0, "evaluate_spiking": 0.0}
    )

    def __post_init__(self) -> None:
        self.exact = self.kind()
        self.device, self.home = device_of(self.snn), device_of(self.original)

    def add_all(self, data: Iterable[Any], progress: bool) -> None:
        """Runs every batch, the next one being read meanwhile."""
        total = len(data) if isinstance(data, Sized) else None
        for batch in tqdm(ahead(data), "evaluate", total, disable=None if progress else True):
            for part in self.snn.signature.taken(batch):
                self.add(part)

    def add(self, batch: Any) -> None:
        """Runs one batch through the original, and in every planned way through the other."""
        args, kwargs = self.snn.signature.split(batch)
        size = batch_size((args, kwargs))
        if not size:
            return
        # The original might take what the spiking network can't, or say less of what is wrong.
        self.snn.signature.flatten(args, kwargs)
        room = self.wanted - self.images
        if room > 0:
            kept = (self.snn.signature.bounds or BatchBounds()).at_least(min(size, room))
            self.kept.append(rows((args, kwargs), kept))
        begin = time.perf_counter()
        expected = outputs(self.original, (args, kwargs), self.home, self.device)
        between = time.perf_counter()
        labels = self.kind.labels(self.snn.signature.label(batch), expected)
        self.exact.add(expected, expected, labels)
        whole = Batch((args, kwargs), expected, labels)
        for piece in whole.pieces(self.snn, size, self.device):
            run_all(self.snn, self.plan, piece, self.device)
        self.seconds["evaluate_original"] += between - begin
        self.seconds["evaluate_spiking"] += time.perf_counter() - between
        self.images += size


def _figures(both: _Both, run: Run) -> tuple[Row, float]:
    """What was measured of a run, and its spikes for each neuron and image."""
    spikes = sum(run.spikes.values())
    return run.measure.values, spikes / (both.images * both.snn.report.neurons)


def _step_row(both: _Both, step: int) -> StepRow:
    values, spikes = _figures(both, both.plan.readouts[step])
    return StepRow(step, values, spikes, both.plan.raw[step].measure.raw)


def _whole(both: _Both) -> Whole:
    run, report = both.plan.whole, both.snn.report
    spikes = sum(run.spikes.values()) / both.images
    return Whole(
        run.measure.values,
        neurons=report.neurons,
        spikes_per_image=spikes,
        spikes_per_neuron=spikes / report.neurons,
        spike_driven=report.spike_driven,
        without_encoding=both.plan.bare.measure.values if both.plan.bare else None,
    )


def _count(by_site: int) -> int:
    """A number of images, checked."""
    if isinstance(by_site, bool) or not isinstance(by_site, Integral) or by_site < 0:
        raise InputError(
            f"by_site= must be a whole number of images, 0 for none, found {by_site!r}"
        )
    return int(by_site)


def _steps(at: Collection[int] | None, steps: int) -> list[int]:
    """Steps to read out after, the last among them, increasing."""
    if at is None:
        return list(range(1, steps + 1))
    try:
        wanted = list(at)
    except TypeError:
        raise InputError(f"at= must be a list of steps, found {at!r}") from None
    for step in wanted:
        if isinstance(step, bool) or not isinstance(step, Integral) or not 1 <= step <= steps:
            raise InputError(
                f"the network can be read out after steps 1 to {steps}, found {step!r}"
            )
    return sorted({*map(int, wanted), steps})
