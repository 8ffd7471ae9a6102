"""Which positions of a batch of texts are no padding, by the mask that comes with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .call_signature import Signature

# How forward's parameters are called: the first is 0 at padding, the second True.
_KEPT, _HIDDEN = "attention_mask", "padding_mask"


def padding_size(signature: Signature) -> str | None:
    """The name of the length along which a mask tells padding; None where no input does."""
    place = _place(signature)
    return None if place is None else str(signature.shapes[place][1])  # type: ignore[index]


def kept_positions(signature: Signature, leaves: Sequence[Any]) -> Tensor | None:
    """True where a position is no padding, ``[N, L]``; None where nothing is padded.

    Args:
        signature: of a network whose lengths vary.
        leaves: flat inputs of a batch.
    """
    place = _place(signature)
    if place is None:
        return None
    mask: Tensor = leaves[place]
    kept = mask != 0 if _name(signature, place).endswith(_KEPT) else mask == 0
    return None if bool(kept.all()) or not bool(kept.any()) else kept


def _place(signature: Signature) -> int | None:
    """The flat input that is a mask ``[N, L]`` of a length that varies."""
    for place, described in enumerate(signature.inputs):
        if described is None or described.dtype.is_floating_point:
            continue
        named = _name(signature, place).endswith((_KEPT, _HIDDEN))
        shape = described.shape
        if named and len(shape) == 2 and shape[0] is None and isinstance(shape[1], str):
            return place
    return None


def _name(signature: Signature, place: int) -> str:
    described = signature.inputs[place]
    assert described is not None
    return described.name.partition("[")[0]
