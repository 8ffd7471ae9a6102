"""Recurrent layers and cells as operations that stay whole until `unroll` takes them apart.

`aten.lstm`, `aten.gru`, `aten.rnn_tanh`, `aten.rnn_relu` and their cells become `fewspikes.layers`
and `fewspikes.cell` in the graph that torch.export makes: tracing every time step would take it
minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ..errors import CaptureError

aten = torch.ops.aten

_VARYING = (
    "a recurrent layer can't be unrolled over a length that varies; put convert.stepwise(layer) in "
    "its place and name its cells in modules=['LAYER.cells.*'], so that it runs step by step at "
    "any length, or give all sequences one length"
)
PACKED = (
    "a recurrent layer is given a PackedSequence, whose lengths are values; give it the padded "
    "sequences [N, T, F], and mask what it returns or gather the last step of each"
)


@torch.library.custom_op("fewspikes::layers", mutates_args=())
def _layers(
    kind: str,
    x: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    """Outputs, and the last states: as `aten.lstm` and the others."""
    raise AssertionError("recurrent layers are unrolled before they run")


@_layers.register_fake
def _(
    kind: str,
    x: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    wide = hx[0].shape[-1] * (1 + bidirectional)
    return [x.new_empty(*x.shape[:-1], wide), *(torch.empty_like(state) for state in hx)]


@torch.library.custom_op("fewspikes::cell", mutates_args=())
def _cell(
    kind: str, x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], biases: bool
) -> list[Tensor]:
    """The next states: as `aten.lstm_cell` and the others."""
    raise AssertionError("recurrent cells are taken apart before they run")


@_cell.register_fake
def _(
    kind: str, x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], biases: bool
) -> list[Tensor]:
    return [torch.empty_like(state) for state in hx]


LAYERS: OpOverload = torch.ops.fewspikes.layers.default
CELL: OpOverload = torch.ops.fewspikes.cell.default


def _whole_layers(kind: str) -> Callable[..., Any]:
    """A recurrent layer's function, as one operation."""

    def whole(
        input: Tensor,
        hx: Tensor | Sequence[Tensor],
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        if dropout and train:
            raise CaptureError("a recurrent layer drops values out; call .eval() on the model")
        if not isinstance(input.shape[1 if batch_first else 0], int):
            raise CaptureError(_VARYING)
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        shape = has_biases, num_layers, bidirectional, batch_first
        return tuple(LAYERS(kind, input, states, list(params), *shape))

    return whole


def _whole_cell(kind: str) -> Callable[..., Any]:
    """A recurrent cell's function, as one operation."""

    def whole(
        input: Tensor,
        hx: Tensor | Sequence[Tensor],
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        biases = [b for b in (b_ih, b_hh) if b is not None]
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        found = CELL(kind, input, states, [w_ih, w_hh, *biases], bool(biases))
        return found[0] if isinstance(hx, Tensor) else tuple(found)

    return whole


def _packed(*_: Any, **__: Any) -> Any:
    raise CaptureError(PACKED)


_KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
# For the table of decompositions.
RECURRENT: Mapping[OpOverload, Callable[..., Any]] = {
    getattr(getattr(aten, kind + suffix), overload): made
    for kind in _KINDS
    for suffix, overload, made in (
        ("", "input", _whole_layers(kind)),
        ("", "data", _packed),
        ("_cell", "default", _whole_cell(kind)),
    )
}


class kept_whole:
    """Inside, what this thread exports calls recurrent layers as one operation.

    Else torch runs all time steps to find out the shapes, and gives in where a length varies.
    """

    def __enter__(self) -> None:
        self._own = [
            (place, name, getattr(place, name)) for place in (torch, torch._VF) for name in _NAMES
        ]
        for place, name, own in self._own:
            setattr(place, name, _where_traced(own, _NAMES[name]))

    def __exit__(self, *_: object) -> None:
        for place, name, own in self._own:
            setattr(place, name, own)


def _where_traced(own: Callable[..., Any], whole: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch's, for which another stands while this thread exports a model."""

    def called(*args: Any, **kwargs: Any) -> Any:
        if get_proxy_mode() is None:
            return own(*args, **kwargs)
        # A list of lengths comes before the state of packed sequences.
        packed = len(args) > 3 and isinstance(args[3], tuple | list)
        return (_packed if packed else whole)(*args, **kwargs)

    return called


_NAMES: Mapping[str, Callable[..., Any]] = {
    **{kind: _whole_layers(kind) for kind in _KINDS},
    **{f"{kind}_cell": _whole_cell(kind) for kind in _KINDS},
    "_pack_padded_sequence": _packed,
}
