"""Whether a graph holds for lengths that torch.export says nothing of: one, and the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.fx import GraphModule

from ..calls.call_signature import Signature
from ..calls.size_bounds import ANY, SizeBounds
from ..calls.sizes import Size
from ..errors import CaptureError
from .batch_limits import alike, runs
from .examples import Examples, Inputs
from .table_limits import longest
from .varying import Lengths, Varying

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

    torch.export takes for granted that no length inside is 1, whether or not that matters, and says
    nothing of tables that have a row for each position.

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
    if not signature.varying:
        return signature
    trial = _Trial(model, graph_module, signature, given, least)
    sizes = []
    for size in signature.varying:
        size = replace(size, bounds=longest(graph_module, signature, size))
        trial.check_most(size)
        sizes.append(replace(size, bounds=trial.lowered(size)))
    if not trial.alike({size.name: size.bounds.smallest for size in sizes}):
        lowest = {size.name: size for size in signature.varying}
        sizes = [
            replace(s, bounds=replace(s.bounds, least=max(lowest[s.name].bounds.least, 2)))
            for s in sizes
        ]
    for size in sizes:
        asked = f", as set at {size.bounds.asked}" if size.bounds.asked else ""
        notes.append(f"the network takes {size}{asked}; it was captured at {size.example}")
    return replace(signature, varying=tuple(sizes))


class _Trial:
    """Compares a graph with its model at other lengths.

    Args:
        model, graph_module, signature, given, least: as for `limited_lengths`.
    """

    def __init__(
        self,
        model: nn.Module,
        graph_module: GraphModule,
        signature: Signature,
        given: Examples,
        least: float,
    ) -> None:
        self._model, self._graph, self._given, self._least = model, graph_module, given, least
        free = tuple(replace(size, bounds=ANY) for size in signature.varying)
        self._signature = replace(signature, varying=free)
        self._images = max(signature.bounds.smallest if signature.bounds else 1, 2)

    def _inputs(self, lengths: Lengths) -> Inputs:
        return self._given.of(self._images, 0, lengths)

    def alike(self, lengths: Lengths) -> bool:
        """Whether the model takes these lengths, and the graph gives the same."""
        inputs = self._inputs(lengths)
        return runs(self._model, inputs) and alike(
            self._model, self._graph, self._signature, inputs, self._least
        )

    def lowered(self, size: Size) -> SizeBounds:
        """The bounds of a length, from the smallest on at which the graph does the same."""
        bounds = size.bounds
        if bounds.divisor > 1:
            return bounds
        lowest = bounds.least if bounds.least > 1 else 2
        tried = {lowest - 1, 1, *(lowest * part // 16 for part in (12, 8, 6, 4, 3, 2, 1))}
        for length in sorted(tried - {0}, reverse=True):
            if not self.alike({size.name: length}):
                break
            lowest = length
        asked = bounds.asked if lowest == bounds.least or bounds.most is not None else ""
        return replace(bounds, least=lowest, asked=asked)

    def check_most(self, size: Size) -> None:
        """Refuses a graph that does something else than the model at the largest length.

        Raises:
            CaptureError: if it does.
        """
        most = size.bounds.most
        if most is None or most > _TRIED * size.example:
            return
        if runs(self._model, self._inputs({size.name: most})) and not self.alike({size.name: most}):
            raise CaptureError(
                f"the captured graph doesn't reproduce the model at {size.name} {most}; forward "
                f'does something else there than at {size.example}: leave "{size.name}" out of '
                "dynamic=, or give batches of one size"
            )
