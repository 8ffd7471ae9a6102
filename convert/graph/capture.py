"""A model and an example batch in, a functional ATen graph out. The model is left as it was."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from . import fold
from . import origins as layers
from . import recognise_norms as norms
from .batch_axis import Asked, find_batch
from .batch_inputs import inputs_needed, split_batch
from .batch_layout import resized
from .call_signature import Signature, named
from .exporting import EXPORTED_ROWS, export, plain
from .fidelity import CHECKED_ROWS, ROUNDING, deterministic, difference, sensitivity
from .isolate import device_of_model, isolated, slow_attention
from .passes import Fact, Pass, check, run

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


@dataclass
class Captured:
    """A network as a graph.

    Args:
        graph_module: flat placeholders in, a flat tuple out; ATen operations only; eval mode.
        signature: how the model is called and what it returns.
        difference: largest difference from the model's own output, over its largest magnitude.
        notes: what the user should know of how it was captured.
    """

    graph_module: GraphModule
    signature: Signature
    difference: float
    notes: list[str] = field(default_factory=list)


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
            model that can't do without two inputs, or a dict of keyword inputs.
        device: where the result lives; the model's own device if None.
        batch_axis: as for `to_spiking`.

    Raises:
        InputError: for a batch without images, or a batch axis that the inputs don't have.
        CaptureError: if the model can't be exported, gives other outputs from call to call, or
            isn't reproduced by its graph to rounding.
    """
    notes: list[str] = []
    copied = isolated(model, notes)
    target = torch.device(device) if device is not None else device_of_model(copied)
    copied.to(target)
    inputs = split_batch(batch, takes=inputs_needed(copied))
    found = find_batch(copied, inputs, named(copied, *inputs)[1], batch_axis, target)
    leaves, spec = pytree.tree_flatten(inputs)
    # A few images alone are moved: the batch may be all that there are.
    (args, kwargs), checked = pytree.tree_map_only(
        torch.Tensor,
        lambda leaf: leaf.to(target),
        [
            pytree.tree_unflatten(resized(leaves, found.axes, count), spec)
            for count in (EXPORTED_ROWS, CHECKED_ROWS)
        ],
    )
    with torch.no_grad(), slow_attention(copied, checked, notes):
        expected = deterministic(copied, *checked)
        exported = export(copied, args, kwargs, found.axes)
        module = exported.module(check_guards=False)
        graph_module = plain(module)
        signature = Signature.of(copied, args, kwargs, exported.call_spec.out_spec, found)
        flat = signature.flatten(*checked)
        run(_FOLDING, graph_module, GIVEN)
        least = sensitivity(copied, checked, expected)
        difference(expected, graph_module(*flat), least)
        run(_READING, graph_module, check(_FOLDING, GIVEN))
        # An epsilon may move from outside a norm's root to inside, which double precision sees.
        least = max(least, ROUNDING[torch.float32])
        gap = difference(expected, graph_module(*flat), least)
    for note in found.notes if found.doubtful else ():
        warnings.warn(note, stacklevel=3)
    return Captured(graph_module, signature, gap, [*notes, *found.notes])
