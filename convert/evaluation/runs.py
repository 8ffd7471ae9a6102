"""How the spiking network is run on every batch, planned before the first one, and the running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..calls.batch_bounds import label_parts
from ..calls.batch_forms import Given
from ..calls.batch_layout import Layout
from ..calls.call_signature import Signature
from ..errors import InputError
from ..network.model import SpikingModel
from ..network.report import Report
from ..sites.encode_operands import IDENTITY
from .measures import Measure, Outputs, Returned, outputs_of, result_of
from .own_metric import Targets

# Adds outputs, the reference's and labels to a measure.
Add = Callable[[Measure, Outputs, Outputs, Any], None]
# On a CPU the layers' outputs for so many images still fit into a cache, or nearly.
_PIECE = 84


@dataclass(frozen=True)
class Run:
    """One way in which the network is run.

    Args:
        within: the context that says how.
        measure: what is measured of its outputs.
        counted: whether spikes are counted.
        spikes: those of each site, by its name.
        neurons: of each site, by its name, added over the images: where lengths vary, as many as
            there were. None where an image always has those of the report.
    """

    within: Callable[[], AbstractContextManager[object]]
    measure: Measure
    counted: bool = False
    spikes: Counter[str] = field(default_factory=Counter)
    neurons: Counter[str] | None = None


@dataclass(frozen=True)
class Plan:
    """All runs of an evaluation.

    Args:
        readouts: by the step after which every neuron is cut.
        raw: the same without the mean of what is missing; of the last step it is the same run.
        refits: by the other K that the network was fitted for.
        bare: without the identity neurons on analog operands; None if there are none.
    """

    readouts: Mapping[int, Run]
    raw: Mapping[int, Run]
    refits: Mapping[int, Run]
    bare: Run | None

    @property
    def runs(self) -> list[Run]:
        """Each once."""
        named = [*self.readouts.values(), *self.raw.values(), *self.refits.values()]
        return list({id(run): run for run in [*named, self.bare] if run is not None}.values())

    @property
    def whole(self) -> Run:
        """The network as it is."""
        return self.readouts[max(self.readouts)]


def report_of(snn: SpikingModel) -> Report:
    """The network's report; InputError if it has none."""
    if snn.report is None:
        raise InputError("the network has no report, which evaluate needs; convert it again")
    return snn.report


def planned(snn: SpikingModel, kind: Measure, read: Sequence[int]) -> Plan:
    """The runs for readouts after some steps, the last among them; each has a measure of its own.

    Raises:
        InputError: if the network has no report.
    """

    def cut(step: int, corrected: bool) -> Callable[[], AbstractContextManager[object]]:
        return partial(snn.readout, step, corrected=corrected)

    report = report_of(snn)
    readouts = {step: Run(cut(step, True), kind.start(), counted=True) for step in read}
    last = max(read)
    if snn.signature.varying:
        readouts[last] = replace(readouts[last], neurons=Counter())
    raw = {step: Run(cut(step, False), kind.start()) for step in read if step != last}
    refits = {
        int(k): Run(partial(snn.with_steps, int(k)), kind.start(), counted=True)
        for k in snn.refitted
    }
    encoders = {row.name for row in report.sites if row.function == IDENTITY}
    others = [name for name in snn.sites if name not in encoders]
    bare = Run(partial(snn.spiking_only, others), kind.start()) if encoders else None
    return Plan(readouts, raw | {last: readouts[last]}, refits, bare)


@dataclass(frozen=True)
class Batch:
    """A batch's inputs, the original's outputs for it, and its labels as `Measure` takes them."""

    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    expected: Outputs
    labels: Any

    def pieces(
        self, snn: SpikingModel, size: int, device: torch.device, *, whole: bool = False
    ) -> Iterator[Batch]:
        """The batch cut along its `size` images, if the network takes any batch and a cut helps.

        Args:
            snn: the network.
            size: images of the batch.
            device: where the network is.
            whole: leaves the batch as it is.
        """
        signature = snn.signature
        if whole:
            yield self
            return
        free = any(axis is not None for axis in signature.axes) and not signature.whole
        count = max(round(size / _PIECE), 1) if free and device.type == "cpu" else 1
        sizes = signature.sizes(size, count)
        if len(sizes) == 1:
            yield self
            return
        layouts = signature.layouts(len(self.expected))
        expected = {
            name: [output] * len(sizes)
            if layout.axis is None or output.shape[:1] != (size,)
            else output.split(sizes)
            for (name, output), layout in zip(self.expected.items(), layouts, strict=True)
        }
        labels = list(label_parts(self.labels, size, sizes))
        for i, inputs in enumerate(signature.cut(self.inputs, sizes)):
            yield Batch(inputs, {name: cut[i] for name, cut in expected.items()}, labels[i])


def directly(measure: Measure, found: Outputs, reference: Outputs, labels: Any) -> None:
    """Adds outputs to a measure."""
    measure.add(found, reference, labels)


def run_all(
    snn: SpikingModel, plan: Plan, piece: Batch, device: torch.device, add: Add = directly
) -> None:
    """Runs a piece in every planned way and adds up what comes of it.

    Args:
        snn: the network.
        plan: the ways.
        piece: the whole of a batch, or a part.
        device: where the network is.
        add: adds a run's outputs to its measure.
    """
    # Moved once: what comes before the neurons is computed once for the same tensors.
    piece = replace(piece, inputs=moved(piece.inputs, device))
    with snn.repeated():
        for run in plan.runs:
            with run.within(), _counting_neurons(snn, run):
                if run.counted:
                    with snn.count_spikes() as spikes:
                        found = outputs(snn, piece.inputs, device)
                    run.spikes.update(spikes)
                else:
                    found = outputs(snn, piece.inputs, device)
            found = by_image(snn.signature, found, run.measure)
            add(run.measure, found, piece.expected, piece.labels)


@contextmanager
def _counting_neurons(snn: SpikingModel, run: Run) -> Iterator[None]:
    """Adds the neurons of every site to a run's, where they are counted.

    A neuron is used again by each call of its site, so the largest call tells how many there are.
    """
    if run.neurons is None:
        yield
        return
    largest: Counter[str] = Counter()

    def told(site: str, size: int) -> None:
        largest[site] = max(largest[site], size)

    with snn.running(sizes=(*snn.plan.sizes, told)):
        yield
    run.neurons.update(largest)


def outputs(
    model: Callable[..., Any], inputs: Any, device: torch.device, to: torch.device | None = None
) -> Returned:
    """The floating-point outputs by name, on the model's device or another."""
    args, kwargs = moved(inputs, device)
    found = outputs_of(model(*args, **kwargs))
    if to is not None and to != device:
        found = outputs_of(moved(found.result, to))
    return Returned({name: output.to(to or device) for name, output in found.items()}, found.result)


def by_row(signature: Signature, found: Outputs) -> Returned:
    """Outputs with the images first, ``[N, ...]``, or their rows, ``[N*T, ...]``."""
    pairs = zip(found.items(), signature.layouts(len(found)), strict=True)
    named = {name: layout.by_row(output) for (name, output), layout in pairs}
    return Returned(named, result_of(found))


def by_image(signature: Signature, found: Outputs, kind: Measure) -> Returned:
    """Outputs as a measure takes them, ``[N, ...]`` each, with what the network returned.

    One with another length that the batch decides, ``[N, N]``, has no elements that could be
    compared over the images: a measure of elements is given each by itself.
    """

    def taken(output: Tensor, layout: Layout) -> Tensor:
        if layout.varies and kind.elements:
            return output.flatten()
        images = layout.by_image(output)
        return images.movedim(-1, 1) if kind.positions_second and layout.rows > 1 else images

    layouts = signature.layouts(len(found))
    pairs = zip(found.items(), layouts, strict=True)
    named = {name: taken(output, layout) for (name, output), layout in pairs}
    return Returned(named, result_of(found))


def targets_of(signature: Signature, kind: Measure, batch: Given, found: Outputs, size: int) -> Any:
    """What a batch is measured against.

    Args:
        signature: how the network is called.
        kind: what is measured.
        batch: as it was read.
        found: the original's outputs as it returned them.
        size: images of the batch.
    """
    if kind.positions_second:
        return kind.targets(batch, by_image(signature, found, kind), size)
    labels = kind.targets(batch, by_row(signature, found), size)
    if isinstance(labels, Tensor):
        return labels_by_image(signature, labels, found, size)
    return labels


def first_labels(labels: Any, size: int, count: int) -> Any:
    """The labels of the first `count` images of a batch of `size`, as a measure takes them."""
    if count == size or labels is None:
        return labels
    if isinstance(labels, Targets):
        return Targets(next(label_parts(labels.label, size, [count])), count)
    return next(label_parts(labels, size, [count]))


def labels_by_image(signature: Signature, labels: Tensor, found: Outputs, size: int) -> Tensor:
    """Labels of every row of the outputs, ``[N*T, ...]``, as ``[N, ..., T]``; others as they are.

    Args:
        signature: how the network is called.
        labels: of a batch.
        found: its outputs as the network returned them.
        size: its images.
    """
    for output, layout in zip(found.values(), signature.layouts(len(found)), strict=True):
        if layout.axis is not None and output.dim() > 1:
            rows = layout.rows * size
            return layout.split_rows(labels) if labels.shape[:1] == (rows,) else labels
    return labels


def moved(inputs: Any, device: torch.device) -> Any:
    """A tree of inputs with its tensors on a device."""
    return pytree.tree_map_only(Tensor, lambda leaf: leaf.to(device), inputs)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer is; the CPU without any."""
    return next((t.device for t in model.state_dict().values()), torch.device("cpu"))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts every module in eval mode inside the block and leaves all as they were."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training
