"""Whether a graph holds for batches that torch.export says nothing of: one image, and too many."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from ..calls.batch_bounds import BatchBounds
from ..calls.call_signature import Signature
from ..errors import CaptureError
from .examples import Examples, Inputs
from .fidelity import difference, is_float

# A batch above the bound is tried if it isn't larger than this.
_TRIED = 512


def limited(
    model: nn.Module,
    graph_module: GraphModule,
    signature: Signature,
    given: Examples,
    least: float,
    notes: list[str],
) -> Signature:
    """The signature with the bounds that hold; what they are is noted.

    torch.export takes for granted that a batch has more than one image: `if x.shape[0] == 1` is
    decided without a word.

    Args:
        model: the copy that was captured.
        graph_module: its graph.
        signature: with the bounds that torch names.
        given: example inputs.
        least: differences up to this count as rounding.
        notes: is added to.
    """
    bounds = signature.bounds or BatchBounds()
    if bounds.holds(1) and not alike(model, graph_module, signature, given.of(1), least):
        bounds = replace(bounds, least=2)
        notes.append(
            "forward does something else with a batch of one image; the network takes at least 2 "
            "images at once"
        )
    elif bounds != BatchBounds():
        asked = f", as forward asks at {bounds.asked}" if bounds.asked else ""
        notes.append(f"the network takes {bounds}{asked}")
    free = replace(signature, bounds=None)
    if bounds.most is not None and bounds.most < _TRIED:
        beyond = given.of(bounds.divisor * (bounds.most // bounds.divisor + 1))
        if runs(model, beyond) and not alike(model, graph_module, free, beyond, least):
            notes.append(
                f"with more than {bounds.most} images forward computes something else, which isn't "
                "converted"
            )
    return replace(signature, bounds=None if bounds == BatchBounds() else bounds)


def runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        model(*inputs[0], **inputs[1])
    except Exception:
        return False
    return True


def alike(
    model: nn.Module, graph_module: GraphModule, signature: Signature, inputs: Inputs, least: float
) -> bool:
    """Whether the graph gives what the model gives, to rounding."""
    try:
        outputs = pytree.tree_leaves(model(*inputs[0], **inputs[1]))
        found = graph_module(*signature.flatten(*inputs))
        difference([leaf for leaf in outputs if is_float(leaf)], found, least)
    except CaptureError:
        return False
    except Exception:
        return False
    return True
