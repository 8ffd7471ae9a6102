"""A model and an example batch in, a functional ATen graph out. The model is left as it was."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from ..calls.batch_reading import BatchReader, ReadBatches, moved, read_by
from ..calls.batch_shapes import shapes_of
from ..calls.call_signature import Signature, named
from ..calls.forward_parameters import parameters_of
from ..calls.own_classes import register
from ..calls.sizes import Shapes
from ..graph import fold
from ..graph import origins as layers
from ..graph import recognise_norms as norms
from ..graph.node_facts import mark_sizes
from ..graph.passes import Fact, Pass, check, run
from .batch_axis import Asked, find_batch, told_by_labels
from .batch_limits import limited
from .copying import make_own
from .examples import Examples, caches_of, unit_of
from .exporting import export, plain
from .fidelity import CHECKED_ROWS, ROUNDING, difference, floats, sensitivity
from .flat_call import check_call
from .input_types import as_taken
from .isolate import device_of_model, isolated, on_device, warn_of
from .model_kinds import as_program_takes, refuse_packed
from .quiet import quiet
from .table_limits import with_rows
from .varying import Dynamic, find_varying
from .varying_limits import limited_lengths, within_bounds

# What is true of an exported graph; what is done then, and what once the graph has been checked.
GIVEN = frozenset({Fact.PLAIN})
_FOLDING: tuple[Pass[GraphModule], ...] = (
    Pass("fold constants", GIVEN, frozenset({Fact.CONSTANTS}), fold.constants),
    Pass(
        "fold batch norms",
        frozenset({Fact.CONSTANTS}),
        frozenset({Fact.NO_BATCH_NORM}),
        fold.batch_norms,
    ),
)
_READING: tuple[Pass[GraphModule], ...] = (
    Pass(
        "recognise norms",
        frozenset({Fact.CONSTANTS, Fact.NO_BATCH_NORM}),
        frozenset({Fact.NORMS}),
        norms.recognise,
    ),
    Pass(
        "mark layers",
        frozenset({Fact.NORMS}),
        frozenset({Fact.LAYERS}),
        lambda graph_module: layers.mark(graph_module.graph),
    ),
)
PASSES = _FOLDING + _READING
# torch.export keeps what it does in globals.
_one_at_a_time = threading.RLock()


@dataclass
class Captured:
    """A network as a graph.

    Args:
        graph_module: flat placeholders in, a flat tuple out; ATen operations only; eval mode.
        signature: how the model is called and what it returns.
        difference: largest difference from the model's own output, over its largest magnitude.
        notes: what the user should know of how it was captured.
        reader: reads further batches as the example was read.
    """

    graph_module: GraphModule
    signature: Signature
    difference: float
    notes: list[str] = field(default_factory=list)
    reader: BatchReader | None = None

    def batches(self, source: Iterable[Any]) -> ReadBatches:
        """The batches of a data source, all read in one way; `tell_readings` notes how."""
        if self.reader is None:
            self.reader = BatchReader(self.signature.parameters)
        elif not self.reader.parameters.dtypes:
            self.reader.parameters = self.reader.parameters.typed(self.signature.parameters)
        return read_by(source, self.reader)

    def tell_readings(self) -> None:
        """Adds to the notes how the batches were read, where that isn't plain."""
        told = self.reader.notes if self.reader is not None else []
        self.notes.extend(note for note in told if note not in self.notes)


def capture(
    model: nn.Module,
    batch: Any,
    *,
    device: torch.device | str | None = None,
    batch_axis: Asked = None,
    dynamic: Dynamic | None = None,
    others: Iterable[Any] = (),
    seen: Sequence[Shapes] = (),
) -> Captured:
    """Captures `model` in eval mode, decomposed, batch norm and constants folded.

    Args:
        model: any module that `torch.export` takes; neither it nor its weights are touched.
        batch: one calibration batch: a tensor ``[N, ...]``, ``(inputs, label)``, ``(x, t)`` for a
            model that can't do without two inputs, or a dict of keyword inputs; see `BatchReader`.
        device: where the result lives; the model's own device if None.
        batch_axis: as for `to_spiking`.
        dynamic: axes whose length may vary beside the batch, by the name of an input, each with the
            name of its length or None.
        others: further batches; lengths in which they differ vary.
        seen: shapes of batches that aren't at hand any more.

    Raises:
        InputError: for a batch without images, or a batch axis that the inputs don't have.
        CaptureError: if the model can't be exported, gives other outputs from call to call, or
            isn't reproduced by its graph to rounding.
    """
    notes: list[str] = []
    refuse_packed(batch)
    register(batch)
    with _one_at_a_time, isolated(model, notes) as isolation:
        copied = isolation.copied
        home = device_of_model(copied)
        target = torch.device(device) if device is not None else home
        reader = BatchReader(parameters_of(copied))
        read = reader.read(batch)
        given = as_program_takes(copied, *moved(read, home))
        check_call(copied, *given)
        with isolation.model_in_use() as called:
            inputs = as_taken(called, *given, notes)
            owners = named(called, *inputs)[1]
            found = find_batch(called, inputs, owners, batch_axis)
            if batch_axis is None:
                found = told_by_labels(found, pytree.tree_leaves(inputs), owners, read.label)
            plain_size = bool(found.outputs) and found.unit == 1
            unit = 1 if plain_size else unit_of(called, inputs, found.axes)
            few = CHECKED_ROWS * unit
            seen = [*seen, *shapes_of(others, reader.parameters, called)]
            varying = find_varying(called, inputs, found.axes, owners, dynamic, seen, few)
        example = Examples(inputs, found.axes, unit, varying)
        exported_inputs = example.of(example.exported)
        expected, checked = isolation.reference(example.checked, exported_inputs)
        isolation.settle(exported_inputs, checked, expected, notes)
        warn_of(notes)
        notes += isolation.hook_notes
        copied.to(target)
        example = replace(example, given=on_device(example.given, target))
        checked, expected = on_device((checked, expected), target)
        with isolation.explaining():
            with quiet():
                exported = export(copied, example, caches_of(copied, example))
                module = exported.program.module(check_guards=False)
            bounds = exported.bounds
            example = replace(example, varying=within_bounds(exported.varying))
            if example.varying != varying or not (bounds is None or bounds.holds(few)):
                size = few if bounds is None else bounds.at_least(few)
                checked = example.of(size, example.exported, example.checked_lengths)
                expected = floats(copied(*checked[0], **checked[1]))
            if found.grouped and (bounds is None or bounds.divisor % found.unit):
                found = replace(found, mixes=True)
            graph_module = plain(module)
            make_own(graph_module, copied)
            signature = Signature.of(
                copied,
                *example.of(exported.size),
                exported.out_spec,
                found,
                bounds,
                {place: v.size for v in example.varying for place in v.places},
            )
            mark_sizes(graph_module.graph, signature.shapes)
            flat = signature.flatten(*checked)
            run(_FOLDING, graph_module, GIVEN)
            least = sensitivity(copied, checked)
            difference(expected, graph_module(*flat), least)
            run(_READING, graph_module, check(_FOLDING, GIVEN))
            # An epsilon may move from outside a norm's root to inside; double precision sees it.
            least = max(least, ROUNDING[torch.float32])
            gap = difference(expected, graph_module(*flat), least)
            signature = limited(copied, graph_module, signature, example, least, notes)
            signature = limited_lengths(copied, graph_module, signature, example, least, notes)
            signature = with_rows(graph_module, signature)
    notes += [
        f"forward asks for values at {line}; no output depends on it" for line in exported.left_out
    ]
    for note in found.notes if found.doubtful else ():
        warnings.warn(note, stacklevel=5)
    return Captured(graph_module, signature, gap, [*notes, *found.notes], reader)
