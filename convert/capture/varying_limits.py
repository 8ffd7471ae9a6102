"""Whether a graph holds for lengths that torch.export says nothing of: one, and the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.fx import GraphModule

from ..calls.call_signature import Signature
from ..calls.size_bounds import ANY
from ..calls.sizes import Size
from ..errors import CaptureError
from .batch_limits import alike, runs
from .examples import Examples
from .table_limits import longest
from .varying import Varying

# A bound is tried if the inputs aren't larger than this many times the example.
_TRIED = 16


def within_bounds(varying: Sequence[Varying]) -> tuple[Varying, ...]:
    """The same, checked on lengths within their bounds."""
    made = []
    for v in varying:
        bounds = v.bounds
        if not bounds.holds(v.checked):
            others = [bounds.at_least(v.checked), bounds.at_least(v.exported + bounds.divisor)]
            others += [bounds.at_least(max(v.exported - bounds.divisor, 2)), v.exported]
            length = next(
                n for n in others if (bounds.holds(n) and n != v.exported) or n is others[-1]
            )
            v = replace(v, checked=length)
        made.append(v)
    return tuple(made)


def limited_lengths(
    model: nn.Module,
    graph_module: GraphModule,
    signature: Signature,
    given: Examples,
    least: float,
    notes: list[str],
) -> Signature:
    """The signature with the bounds on lengths that hold; what they are is noted.

    torch.export takes for granted that a length is more than 1, and says nothing of tables that
    have a row for each position.

    Args:
        model: the copy that was captured.
        graph_module: its graph.
        signature: with the bounds that torch names.
        given: example inputs.
        least: differences up to this count as rounding.
        notes: is added to.

    Raises:
        CaptureError: if the graph gives other outputs than the model at a length that it takes.
    """
    images = signature.bounds.smallest if signature.bounds else 1
    images = max(images, 2)
    free = replace(signature, varying=tuple(replace(s, bounds=ANY) for s in signature.varying))
    sizes = []
    for size in signature.varying:
        bounds = longest(graph_module, signature, size)
        if bounds.least <= 1 and bounds.divisor == 1:
            one = given.of(images, 0, {size.name: 1})
            if not runs(model, one) or not alike(model, graph_module, free, one, least):
                bounds = replace(bounds, least=2)
        for length in {bounds.smallest, bounds.most or 0}:
            if 1 < length <= _TRIED * size.example:
                tried = given.of(images, 0, {size.name: length})
                if runs(model, tried) and not alike(model, graph_module, free, tried, least):
                    raise CaptureError(
                        f"the captured graph doesn't reproduce the model at {size.name} {length}; "
                        f"forward does something else there than at {size.example}: leave "
                        f'"{size.name}" out of dynamic=, or give batches of one size'
                    )
        sizes.append(Size(size.name, size.example, bounds))
    for size in sizes:
        asked = f", as set at {size.bounds.asked}" if size.bounds.asked else ""
        notes.append(f"the network takes {size}{asked}; it was captured at {size.example}")
    return replace(signature, varying=tuple(sizes))
