"""The time steps in torch's operations, one after the other: the definition of what a neuron does.

It serves gradients, tracers and whatever has no memory; `fused` gives the same bits faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.tracing import traced
from ..errors import InputError
from . import surrogate


class Tables(NamedTuple):
    """The numbers of a neuron.

    Args:
        thresholds, resets, weights: T, h, d, ``[K]``, or ``[G, K]`` with gates.
        offset: y0, one value, or ``[G]`` with gates.
        gates: ``[G - 1]``; None for one table.
    """

    thresholds: Tensor
    resets: Tensor
    weights: Tensor
    offset: Tensor
    gates: Tensor | None = None

    def check_device(self, x: Tensor) -> None:
        """Refuses numbers on another device than the input's.

        Raises:
            InputError: for any.
        """
        on_cpu = x.is_cpu
        for tensor in self:
            if tensor is None or (on_cpu and tensor.is_cpu):
                continue
            if tensor.device != x.device:
                raise InputError(
                    f"a neuron's parameters are on {tensor.device}, its input on {x.device}; move "
                    "one of them with .to(device)"
                )

    def rows(self) -> Iterator[Tables]:
        """Each interval's own table."""
        if self.gates is None:
            yield self
            return
        for T, h, d, y0 in zip(*self[:4], strict=True):
            yield Tables(T, h, d, y0)


def interval(x: Tensor, gates: Tensor) -> Tensor:
    """The table that each value runs, int64 like ``x [...]``: as many as gates lie below it."""
    index = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
    for gate in gates.detach().unbind():
        index = index + (x > gate)
    return index


def tally_type(steps: int) -> torch.dtype:
    """Type of a tally: bytes where K spikes and the event of a constant fit."""
    return torch.uint8 if steps < 255 else torch.int32


def as_count(events: Tensor) -> int | Tensor:
    """Events of each value, from `run`, in all; 0 where there are no values.

    On a GPU they stay there, int64 without dimensions, so that nothing waits.

    Raises:
        InputError: where nobody knows them.
    """
    if events.is_meta:
        return 0
    if events.is_cuda and type(events) is Tensor and not traced():
        return events.sum(dtype=torch.float64).long()
    try:
        return int(events.sum(dtype=torch.float64))
    except RuntimeError as error:
        raise InputError(
            "spikes can't be counted while torch.func or a tracer follows the values; leave "
            "count_spikes and tally_spikes out there"
        ) from error


def as_tally(events: Tensor, steps: int) -> Tensor:
    """Events of each value, from `run`, as the tally of a neuron of K steps."""
    tally = events.to(tally_type(steps))
    if torch.compiler.is_compiling():
        return tally
    # Without what transforms of torch.func put around it.
    while torch._C._functorch.is_functorch_wrapped_tensor(tally):
        tally = torch._C._functorch.get_unwrapped(tally)
    return tally


def run(
    x: Tensor, tables: Tables, steps: int, *, learns: bool, counting: bool
) -> tuple[Tensor, Tensor | None]:
    """A neuron's output for ``x [...]`` and, if asked for, each value's events, of x's type.

    Args:
        x: membrane potentials at the first step.
        tables: of the neuron.
        steps: how many of its K are done.
        learns: gradients are wanted: of spikes and gates they are those of `surrogate`.
        counting: counts spikes, and with gates the constants that aren't 0.
    """
    if tables.gates is None:
        y, events = _table(x, tables, steps, learns, counting)
    elif learns:
        y, events = _every_table(x, tables, tables.gates, steps, counting)
    else:
        index = interval(x, tables.gates)
        chosen = Tables(*(_chosen(values, index) for values in tables[:4]))
        y, events = _table(x, chosen, steps, False, counting)
        if events is not None:
            events = events + _constant(chosen, x)
    return torch.where(x != x, x, y), events


def _chosen(values: Tensor, index: Tensor) -> Tensor:
    """Each value's own number, ``[..., ]`` of ``[G]`` or ``[K, ...]`` of ``[G, K]``."""
    return values.detach()[index] if values.dim() == 1 else values.detach().t()[:, index]


def _table(
    x: Tensor,
    table: Tables,
    steps: int,
    learns: bool,
    counting: bool,
) -> tuple[Tensor, Tensor | None]:
    """The steps of one table, or of every value's own one; output and spikes."""
    v, y = x, torch.zeros_like(x) + table.offset
    fired = torch.zeros_like(x).detach() if counting else None
    widths = surrogate.widths(table.resets) if learns else None
    for t in range(steps):
        T, h, d = table.thresholds[t], table.resets[t], table.weights[t]
        fires = v > T if widths is None else surrogate.fire(v, T, widths[t])
        s = fires.to(v.dtype)
        y = y + d * s
        v = v - h * s.detach()
        if fired is not None:
            fired = fired + s.detach()
    return y, fired


def _every_table(
    x: Tensor, tables: Tables, gates: Tensor, steps: int, counting: bool
) -> tuple[Tensor, Tensor | None]:
    """All tables on all values, of which each keeps its own: so gates have gradients, too."""
    # Training may have moved one past another, which only changes which of them is which.
    gates = gates.sort().values
    index = interval(x, gates)
    events: Tensor | None = None
    outputs = []
    for r, table in enumerate(tables.rows()):
        y, spikes = _table(x, table, steps, True, counting)
        outputs.append(y)
        if spikes is not None:
            own = spikes + _constant(table, x)
            events = own if events is None else torch.where(index == r, own, events)
    y = outputs[0]
    for r in range(1, len(outputs)):
        y = torch.where(index == r, outputs[r], y)
    widths = surrogate.gate_widths(gates, tables.resets)
    for r, gate in enumerate(gates.unbind()):
        crossed = surrogate.fire(x, gate, widths[r])
        # Nothing but its derivative: the output steps from one table's to the next one's.
        y = y + (crossed - crossed.detach()) * (outputs[r + 1] - outputs[r]).detach()
    return y, events


def _constant(table: Tables, x: Tensor) -> Tensor:
    """Whether each value's interval reads out a constant; NaN has no interval."""
    return ((table.offset != 0) & (x == x)).detach()
