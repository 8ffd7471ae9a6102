"""Evaluation by several processes: each runs its batches, and all measure the whole data.

What a process finds for a batch is not added up there but told to all, who add it in the order of
the batches. Sums of rounded numbers are then to the bit those of one process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from ..calls.batch_forms import Given
from ..calls.batch_reading import ReadBatches
from ..common.batches import ahead
from ..common.progress import Progress
from ..common.ranks import Team
from ..common.shares import count_of, digest, numbered, rounds, shared
from ..errors import InputError
from ..network.model import SpikingModel
from .measures import Joined, Measure, Outputs
from .remarks import Remarks
from .runs import Plan


@dataclass(frozen=True)
class _Added:
    """What is to be added to a measure: outputs, or a measure of them alone."""

    measure: int
    what: Measure | tuple[Outputs, Outputs, Any]


@dataclass(frozen=True)
class _Batch:
    """A batch's size, and its inputs and labels where they may be kept."""

    size: int
    kept: tuple[Any, Any] | None


class Log:
    """What one process found for its batch of a round.

    Args:
        measures: that of the original, and those of the runs.
        small: whether a measure of a piece alone goes in place of its outputs.
        keeps: whether inputs are to be kept.
    """

    def __init__(self, measures: Sequence[Measure], small: bool, keeps: bool) -> None:
        self._places = {id(measure): i for i, measure in enumerate(measures)}
        self._small, self._keeps = small, keeps
        self.entries: list[_Added | _Batch] = []

    def begin(self, inputs: Any, labels: Any, size: int) -> None:
        """Notes a batch; what is added to the original's measure next belongs to it."""
        self.entries.append(_Batch(size, (inputs, labels) if self._keeps else None))

    def add(self, measure: Measure, found: Outputs, reference: Outputs, labels: Any) -> None:
        """Notes what is to be added to a measure."""
        what: Measure | tuple[Outputs, Outputs, Any] = (found, reference, labels)
        if self._small:
            what = measure.start()
            what.add(found, reference, labels)
        self.entries.append(_Added(self._places[id(measure)], what))


class Begun(NamedTuple):
    """What the first batch decides: the metric, its runs, and the original's own measure.

    `small` says whether a measure of a piece can go to another process in place of its outputs.
    """

    name: str
    kind: Measure
    plan: Plan
    exact: Measure
    small: bool


class Both(Protocol):
    """Both networks, and what was added up: see `measure`."""

    snn: SpikingModel
    original: nn.Module
    remarks: Remarks
    wanted: int
    images: int
    labelled: int
    kept_images: int
    seconds: dict[str, float]
    device: torch.device
    log: Log | None

    def begin(self, batch: Given) -> Begun: ...

    def add(self, batch: Given) -> None: ...

    def keep(self, inputs: Any, labels: Any, size: int) -> None: ...


def check_alike(team: Team, snn: SpikingModel, original: nn.Module, arguments: object) -> None:
    """Refuses processes of which one evaluates other networks, or otherwise.

    Raises:
        InputError: naming the process, and what to do.
    """
    remedy = "give every process the same"
    for what, network in (("spiking network", snn), ("original network", original)):
        tensors = network.state_dict()
        team.same(what, digest([list(tensors), list(tensors.values())]), remedy)
    team.same("set of arguments", str(arguments), remedy)


def add_all(team: Team, both: Both, data: ReadBatches, progress: bool) -> None:
    """Runs every batch in one of the processes; all have the same sums then.

    Args:
        team: the processes.
        both: the networks and sums of this process.
        data: all batches.
        progress: shows a bar on stderr.
    """
    count = count_of(data)
    share, own = shared(team, data)
    begun = _begun(both, data, share.first)
    plan, exact = begun.plan, begun.exact
    if team.rank:
        both.remarks.leave_comparison()
    measures = [exact, *(run.measure for run in plan.runs)]
    total = None if count is None else -(-count // team.size)
    with Progress[None](None, "evaluate", total, shown=progress) as bar:
        for mine in rounds(team, "evaluate", ahead(numbered(share, own))):
            both.log = Log(measures, begun.small, both.kept_images < both.wanted)
            for batch in mine:
                for part in both.snn.signature.taken(batch):
                    both.add(part)
            found, both.log = both.log.entries, None
            for entries in team.gather("evaluate: outputs", found, both.device):
                _replay(both, measures, entries)
            bar.update()
    _join(team, both, data, begun.kind, plan)


def _begun(both: Both, data: ReadBatches, first: Any) -> Begun:
    """What the first batch decides, in every process."""
    signature = both.snn.signature
    for part in signature.taken(data.reader.read(first)):
        if signature.images(signature.flatten(part.args, part.kwargs)):
            return both.begin(part)
    raise InputError("the first batch has no image; leave it out, or evaluate in one process")


def _replay(both: Both, measures: Sequence[Measure], entries: Sequence[_Added | _Batch]) -> None:
    """Adds what was found for one batch."""
    size, exact = 0, measures[0]
    for entry in entries:
        if isinstance(entry, _Batch):
            size = entry.size
            if entry.kept is not None:
                both.keep(*entry.kept, size)
            continue
        measure, before = measures[entry.measure], exact.labelled
        if isinstance(entry.what, Measure):
            assert isinstance(measure, Joined)
            measure.join(entry.what)
        else:
            measure.add(*entry.what)
        both.labelled += min(exact.labelled - before, size)


def _join(team: Team, both: Both, data: ReadBatches, kind: Measure, plan: Plan) -> None:
    """Adds up what is exact in any order."""
    own = (
        both.images,
        both.seconds,
        [(run.spikes, run.neurons) for run in plan.runs],
        both.remarks.counts(),
        data.reader.notes,
        kind if isinstance(kind, Joined) else None,
    )
    everybody = team.gather("evaluate: sums", own, both.device)
    both.images = sum(images for images, *_ in everybody)
    for stage in both.seconds:
        both.seconds[stage] = max(seconds[stage] for _, seconds, *_ in everybody)
    for i, run in enumerate(plan.runs):
        for place, sums in enumerate((run.spikes, run.neurons)):
            if sums is None:
                continue
            added: Counter[str] = Counter()
            for _, _, of_runs, *_ in everybody:
                added.update(of_runs[i][place])
            sums.clear()
            sums.update(added)
    for rank, (*_, counts, _notes, other) in enumerate(everybody):
        if rank == team.rank:
            continue
        both.remarks.join(counts)
        if isinstance(kind, Joined) and other is not None:
            kind.join(other)
    told = dict.fromkeys(note for *_, notes, _ in everybody for note in notes)
    data.reader.notes[:] = list(told)
