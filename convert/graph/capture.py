"""A model and an example batch in, a functional ATen graph out. The model is left as it was."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from . import fold
from . import origins as layers
from . import recognise_norms as norms
from .batch_axis import Asked, find_batch
from .batch_limits import limited
from .batch_reading import BatchReader, ReadBatches, moved, read_by
from .call_signature import Signature, named
from .copying import make_own
from .examples import Examples, caches_of, unit_of
from .exporting import export, plain
from .fidelity import CHECKED_ROWS, ROUNDING, difference, floats, sensitivity
from .flat_call import check_call
from .forward_parameters import parameters_of
from .input_types import as_taken
from .isolate import device_of_model, isolated, on_device, warn_of
from .model_kinds import refuse_packed
from .own_classes import register
from .passes import Fact, Pass, check, run
from .quiet import quiet

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
) -> Captured:
    """Captures `model` in eval mode, decomposed, batch norm and constants folded.

    Args:
        model: any module that `torch.export` takes; neither it nor its weights are touched.
        batch: one calibration batch: a tensor ``[N, ...]``, ``(inputs, label)``, ``(x, t)`` for a
            model that can't do without two inputs, or a dict of keyword inputs; see `BatchReader`.
        device: where the result lives; the model's own device if None.
        batch_axis: as for `to_spiking`.

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
        given = moved(reader.read(batch), home)
        check_call(copied, *given)
        with isolation.model_in_use() as called:
            inputs = as_taken(called, *given, notes)
            found = find_batch(called, inputs, named(called, *inputs)[1], batch_axis)
            unit = 1 if found.outputs else unit_of(called, inputs, found.axes)
        example = Examples(inputs, found.axes, unit)
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
            bounds, few = exported.bounds, CHECKED_ROWS * unit
            if bounds is not None and not bounds.holds(few):
                checked = example.of(bounds.at_least(few), example.exported)
                expected = floats(copied(*checked[0], **checked[1]))
            graph_module = plain(module)
            make_own(graph_module, copied)
            signature = Signature.of(
                copied, *example.of(exported.size), exported.out_spec, found, bounds
            )
            flat = signature.flatten(*checked)
            run(_FOLDING, graph_module, GIVEN)
            least = sensitivity(copied, checked)
            difference(expected, graph_module(*flat), least)
            run(_READING, graph_module, check(_FOLDING, GIVEN))
            # An epsilon may move from outside a norm's root to inside; double precision sees it.
            least = max(least, ROUNDING[torch.float32])
            gap = difference(expected, graph_module(*flat), least)
            signature = limited(copied, graph_module, signature, example, least, notes)
    notes += [
        f"forward asks for values at {line}; no output depends on it" for line in exported.left_out
    ]
    for note in found.notes if found.doubtful else ():
        warnings.warn(note, stacklevel=3)
    return Captured(graph_module, signature, gap, [*notes, *found.notes], reader)
