"""A model and an example batch in, a functional ATen graph out. The model is left as it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from . import fold
from . import origins as layers
from . import recognise_norms as norms
from .batch_inputs import batch_size, inputs_needed, split_batch
from .batch_limits import limited
from .call_signature import Signature
from .examples import examples
from .exporting import export, plain
from .fidelity import ROUNDING, deterministic, difference, sensitivity
from .isolate import device_of_model, isolated, slow_attention
from .own_classes import register
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


def capture(model: nn.Module, batch: Any, *, device: torch.device | str | None = None) -> Captured:
    """Captures `model` in eval mode, decomposed, batch norm and constants folded.

    Args:
        model: any module that `torch.export` takes; neither it nor its weights are touched.
        batch: one calibration batch: a tensor ``[N, ...]``, ``(inputs, label)``, ``(x, t)`` for a
            model that can't do without two inputs, or a dict of keyword inputs.
        device: where the result lives; the model's own device if None.

    Raises:
        CaptureError: if the model can't be exported, gives other outputs from call to call, or
            isn't reproduced by its graph to rounding.
    """
    notes: list[str] = []
    copied = isolated(model, notes)
    target = torch.device(device) if device is not None else device_of_model(copied)
    copied.to(target)
    register(batch)
    args, kwargs = split_batch(batch, target, takes=inputs_needed(copied))
    given = examples(copied, args, kwargs)
    checked = given.checked
    with torch.no_grad(), slow_attention(copied, checked, notes):
        expected = deterministic(copied, *checked)
        exported = export(copied, given)
        if (bounds := exported.bounds) and not bounds.holds(batch_size(checked)):
            checked = given.of(bounds.at_least(batch_size(checked)))
            expected = deterministic(copied, *checked)
        module = exported.program.module(check_guards=False)
        graph_module = plain(module)
        signature = Signature.of(
            copied, *given.of(exported.size), exported.out_spec, exported.size, exported.bounds
        )
        flat = signature.flatten(*checked)
        run(_FOLDING, graph_module, GIVEN)
        least = sensitivity(copied, checked, expected)
        difference(expected, graph_module(*flat), least)
        run(_READING, graph_module, check(_FOLDING, GIVEN))
        # An epsilon may move from outside a norm's root to inside, which double precision sees.
        least = max(least, ROUNDING[torch.float32])
        gap = difference(expected, graph_module(*flat), least)
        signature = limited(copied, graph_module, signature, given, least, notes)
    notes += [
        f"forward asks for values at {line}; no output depends on it" for line in exported.left_out
    ]
    return Captured(graph_module, signature, gap, notes)
