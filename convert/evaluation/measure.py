"""The spiking network against the original: step by step, for every K, and site by site."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import nn

from ..calls.batch_forms import Given
from ..calls.batch_reading import ReadBatches, read_by
from ..capture.model_kinds import as_program_takes
from ..common.batches import ahead, batches_once
from ..common.kept_passes import SECONDS, BatchPass
from ..common.kept_stages import KeptStages, Stages, opened
from ..common.progress import Progress
from ..common.ranks import team, together
from ..errors import InputError
from ..network.input_types import cast_for
from ..network.model import SpikingModel
from ..network.report import Report
from .by_site import Kept, errors_by_site
from .choice import suitable
from .kept_sums import CLASSES, kept_for, restore, state_of
from .measures import Measure, Outputs, Returned
from .metrics import metric_of
from .on_ranks import Begun, Log, add_all, check_alike
from .remarks import Remarks
from .result import Evaluation
from .rows import FittedRow, Row, StepRow, Whole
from .runs import (
    Batch,
    Plan,
    Run,
    by_image,
    by_row,
    device_of,
    directly,
    eval_mode,
    first_labels,
    outputs,
    planned,
    report_of,
    run_all,
    targets_of,
)


@together
def evaluate(
    snn: SpikingModel,
    model: nn.Module | None,
    data: Any,
    *,
    metric: Any = None,
    by_site: int = 64,
    at: Collection[int] | None = None,
    resume: str | os.PathLike[str] | KeptStages | None = None,
    progress: bool = True,
) -> Evaluation:
    """Runs both networks on the same batches, the spiking one cut after every step as well.

    Args:
        snn: from `to_spiking`; the other K it was fitted for are evaluated beside it.
        model: the original; evaluated in eval mode on its own device and left as it was. None
            takes `snn.original()`.
        data: batches ``(inputs, labels)`` in any form that calibration data may have. Labels are
            class indices ``[N]`` in any form of `class_indices`, or what the metric takes.
            Floating-point inputs are cast to the network's type. Read once. The result's notes say
            how the data was read, and what speaks against the figures; the latter is warned of.
        metric: what is measured, beside the original:

            - ``"agreement"`` (or ``"classes"``): share of images of which both networks predict the
              same class, accuracy where there are labels, and error of the logits; see
              `convert.evaluation.classes.Agreement`. A network with one logit predicts by its sign.
            - ``"accuracy"``: the same, with labels for every batch.
            - ``"output"``: relative error of outputs that are no classes, without labels; see
              `convert.evaluation.output_error.OutputError`.
            - ``"perplexity"``, or ``Perplexity(shift=False)``: of language models, with the
              divergence from the original; see `convert.evaluation.perplexity.Perplexity`.
            - ``"iou"``, or ``IoU(ignore=0)``: of segmentations; see `convert.evaluation.iou.IoU`.
            - a name that `register_metric` was given.
            - a metric of torchmetrics, which stays as it is.
            - a function of (outputs, targets) that gives a number or a dict of numbers for a batch;
              the mean weights each batch by its images.

            None takes the first where the outputs may be logits of classes, judged by the first
            batch and its labels, and else ``"output"``; a note says so.
        by_site: images on which each site's own and the accumulated error is measured; 0 for
            none. A network that mixes the images of a batch is given whole batches: so many images
            or more.
        at: steps after which the network is read out beside the last; None for every step.
        resume: a folder in which sums are kept every few seconds (see ``docs/resume.md``): a run
            that was killed goes on from them, on the same batches. `KeptStages` holds such a folder
            for several calls.
        progress: shows bars on stderr; one line a minute where that is no terminal.

    Raises:
        InputError: for arguments in another order, data without batches, labels that are missing
            or don't fit the outputs or the metric, a metric that is unknown or gives no number, a
            number of images that is none, or a step that the network doesn't have.
    """
    _check_order(snn, model, data)
    given = None if metric is None else metric_of(metric)
    wanted = _count(by_site)
    steps, report = _steps(at, snn.longest), report_of(snn)
    original = snn.original() if model is None else model
    remarks, reader = Remarks(snn, model, data), snn.reader()
    with opened(resume) as folder:
        several = team()
        if several is not None:
            check_alike(several, snn, original, (wanted, steps))
        stages = kept_for(folder, snn, original, given, steps, wanted)
        both = _Both(snn, original, given, steps, wanted, remarks, stages)
        with torch.no_grad(), eval_mode(original), eval_mode(snn):
            both.add_all(read_by(batches_once(data, snn.signature.cut_axis), reader), progress)
        if both.begun is None:
            raise InputError("the test data yields no image; give at least one batch")
        name, kind, plan, exact, _ = both.begun
        exact.check()
        site_rows = (
            errors_by_site(snn, both.kept, kind, stages=stages, progress=progress) if wanted else ()
        )
    neurons = _neurons(both)
    return Evaluation(
        report=report,
        metric=name,
        shown=exact.shown(),
        images=both.images,
        labelled_images=both.labelled,
        original=exact.original,
        spiking=_whole(both, plan, report),
        by_step=tuple(_step_row(both, plan, step) for step in plan.readouts),
        by_K=tuple(
            FittedRow(k, *_figures(both, run), _latency(snn, k)) for k, run in plan.refits.items()
        ),
        by_site=site_rows,
        by_site_images=both.kept_images,
        spikes_per_neuron={
            name: _share(plan.whole.spikes[name], count) for name, count in neurons.items()
        },
        seconds=both.seconds,
        notes=remarks.told(reader.notes, plan.whole.measure.remarks()),
    )


# What counts batches in `_Both`.
_COUNTS = ("images", "labelled", SECONDS)


@dataclass
class _Both:
    """Both networks, and what was added up of the batches that went through them."""

    snn: SpikingModel
    original: nn.Module
    # The metric with its name; None for what suits the first batch.
    given: tuple[str, Measure] | None
    steps: Sequence[int]
    wanted: int
    remarks: Remarks
    stages: Stages
    begun: Begun | None = None
    # What other processes are told of a batch, where several work together.
    log: Log | None = None
    images: int = 0
    labelled: int = 0
    # Of the first `wanted` images inputs and labels; whole batches where none may be cut.
    kept: list[Kept] = field(default_factory=list)
    kept_images: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"evaluate_original": 0.0, "evaluate_spiking": 0.0}
    )

    def __post_init__(self) -> None:
        self.device, self.home = device_of(self.snn), device_of(self.original)
        self.sums = BatchPass(
            self.stages, "evaluation", "test data", self._state, self._restore, CLASSES
        )

    def add_all(self, data: ReadBatches, progress: bool) -> None:
        """Runs every batch, the next one being read meanwhile."""
        several = team()
        if several is not None:
            add_all(several, self, data, progress)
            return
        total = len(data) if isinstance(data, Sized) else None
        for batch in Progress(ahead(data), "evaluate", total, shown=progress):
            for part in self.snn.signature.taken(batch):
                self.add(part)
        self.sums.finish()

    def _state(self) -> dict[str, Any]:
        """What was added up of the batches so far."""
        assert self.begun is not None
        sums = state_of([self.begun.kind, self.begun.exact], self.begun.plan.runs)
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {**sums, **counts, "remarks": self.remarks.state()}

    def _restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `_state` gave."""
        assert self.begun is not None
        restore([self.begun.kind, self.begun.exact], self.begun.plan.runs, state)
        for name in _COUNTS:
            setattr(self, name, state[name])
        self.remarks.restore(state["remarks"])

    def _begin(self, batch: Given, expected: Outputs) -> Begun:
        """Decides on the metric, before the first batch is measured."""
        why, given = "", self.given
        if given is None:
            name, why = suitable(batch, by_row(self.snn.signature, expected))
            given = metric_of(name)
        name, kind = given
        images = by_image(self.snn.signature, expected, kind)
        self.remarks.begin(kind, why, images)
        plan = planned(self.snn, kind, self.steps)
        return Begun(name, kind, plan, kind.start(), kind.small(images))

    def begin(self, batch: Given) -> Begun:
        """Decides by a batch that may be another process's."""
        self.begun = self._begin(batch, self._returned(batch))
        return self.begun

    def _returned(self, batch: Given) -> Returned:
        """What the original returns for a batch."""
        inputs = cast_for(self.original, (batch.args, batch.kwargs))
        own = as_program_takes(self.original, *inputs)
        return outputs(self.original, own, self.home, self.device)

    def add(self, batch: Given) -> None:
        """Runs one batch through the original, and in every planned way through the other."""
        args, kwargs = batch.args, batch.kwargs
        signature = self.snn.signature
        # The original might take what the spiking network can't, or say less of what is wrong.
        leaves = signature.flatten(args, kwargs)
        size = signature.images(leaves)
        if not size:
            return
        added = not self.sums.wants((args, kwargs, batch.label))
        if added and self.kept_images >= self.wanted:
            return
        begin = time.perf_counter()
        returned = self._returned(batch)
        between = time.perf_counter()
        self.begun = self.begun or self._begin(batch, returned)
        name, kind, plan, exact, _ = self.begun
        if kind.needs_labels and kind.given(batch) is None:
            raise InputError(
                f"a batch has no labels, which metric={name!r} needs; give (inputs, labels), or "
                "metric='output' to compare the outputs alone"
            )
        labels = targets_of(signature, kind, batch, returned, size)
        if self.log is None:
            self.keep((args, kwargs), labels, size)
        else:
            self.log.begin((args, kwargs), labels, size)
        if added:
            return
        add = directly if self.log is None else self.log.add
        expected = by_image(signature, returned, kind)
        before = exact.labelled
        add(exact, expected, expected, labels)
        self.labelled += min(exact.labelled - before, size)
        self.remarks.add(signature.placed(leaves), size, expected, labels)
        whole = Batch((args, kwargs), expected, labels)
        for piece in whole.pieces(self.snn, size, self.device, whole=kind.whole):
            self.remarks.compare(partial(self._exact, kind, piece), piece.expected)
            run_all(self.snn, plan, piece, self.device, add)
        self.seconds["evaluate_original"] += between - begin
        self.seconds["evaluate_spiking"] += time.perf_counter() - between
        self.images += size
        self.sums.ran()

    def _exact(self, kind: Measure, piece: Batch) -> Outputs:
        """The outputs of the network that was converted, as they are measured."""
        with self.snn.spiking_only(()):
            found = outputs(self.snn, piece.inputs, self.device)
        return by_image(self.snn.signature, found, kind)

    def keep(self, inputs: Any, labels: Any, size: int) -> None:
        """Keeps the images of a batch that are still wanted, with their labels."""
        room = self.wanted - self.kept_images
        if room <= 0:
            return
        signature = self.snn.signature
        taken = size if signature.whole else min(size, room)
        if signature.bounds is not None:
            taken = signature.bounds.at_least(taken)
        first = inputs if signature.whole else signature.first(inputs, taken)
        self.kept.append((first, first_labels(labels, size, taken)))
        self.kept_images += taken


def _neurons(both: _Both) -> dict[str, int]:
    """The neurons of every site, added over the images."""
    assert both.begun is not None
    sites, counted = report_of(both.snn).sites, both.begun.plan.whole.neurons
    if counted is None:
        return {site.name: both.images * site.neurons for site in sites}
    return {site.name: counted[site.name] for site in sites}


def _figures(both: _Both, run: Run) -> tuple[Row, float]:
    """What was measured of a run, and its spikes for each neuron and image."""
    spikes = sum(run.spikes.values())
    return run.measure.values, _share(spikes, sum(_neurons(both).values()))


def _latency(snn: SpikingModel, steps: int) -> int:
    """Time steps of the longest chain of sites with the neurons of another K."""
    with snn.with_steps(steps):
        return snn.latency()


def _share(spikes: float, neurons: int) -> float:
    """Spikes for each neuron; 0 where one value of a whole batch is no neuron of an image."""
    return spikes / neurons if neurons else 0.0


def _step_row(both: _Both, plan: Plan, step: int) -> StepRow:
    values, spikes = _figures(both, plan.readouts[step])
    return StepRow(step, values, spikes, plan.raw[step].measure.raw)


def _whole(both: _Both, plan: Plan, report: Report) -> Whole:
    run = plan.whole
    values, spikes = _figures(both, run)
    return Whole(
        values,
        neurons=round(sum(_neurons(both).values()) / both.images),
        spikes_per_image=sum(run.spikes.values()) / both.images,
        spikes_per_neuron=spikes,
        spike_driven=report.spike_driven,
        without_encoding=plan.bare.measure.values if plan.bare else None,
    )


def _check_order(snn: Any, model: Any, data: Any) -> None:
    """Refuses arguments in another order than evaluate's."""
    found = ", ".join(type(value).__name__ for value in (snn, model, data))
    if not isinstance(snn, SpikingModel) or isinstance(data, nn.Module):
        raise InputError(
            f"evaluate takes (snn, model, data), the converted network first; found ({found})"
        )
    if model is not None and not isinstance(model, nn.Module):
        raise InputError(
            f"evaluate takes (snn, model, data) with the original, or None for snn.original(), as "
            f"model; found ({found})"
        )
    if model is snn:
        raise InputError(
            "evaluate was given the converted network as its own original; give the model that it "
            "came from, or None"
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
