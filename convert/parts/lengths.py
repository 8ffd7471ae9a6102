"""Batches of other lengths, on which a model shows what of its parts' inputs varies with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from torch.utils import _pytree as pytree

from ..calls.batch_forms import Given
from ..calls.call_signature import named
from ..errors import InputError
from ..network.settings import ConversionSettings
from .whole_model import WholeModel


def lengths_apart(whole: WholeModel, settings: ConversionSettings) -> list[tuple[str, Given]]:
    """The first batch, once for each length that may vary, cut to about half of it.

    Args:
        whole: the model.
        settings: `dynamic` names axes of the model's own inputs.

    Returns:
        Each batch, with what it is called in messages.

    Raises:
        InputError: for an input or an axis that isn't there, or is too short to be cut.
    """
    if not isinstance(settings.dynamic, Mapping):
        return []
    given = whole.first
    owners = named(whole.model, given.args, given.kwargs)[1]
    leaves, spec = pytree.tree_flatten((given.args, given.kwargs))
    by_length: dict[str, list[tuple[int, int]]] = {}
    for owner, axes in settings.dynamic.items():
        known = [i for i, name in enumerate(owners) if owner in (name, name.partition("[")[0])]
        known = [i for i in known if isinstance(leaves[i], Tensor)]
        if not known:
            raise InputError(
                f"dynamic= names an input {owner!r}; the model takes "
                f"{', '.join(dict.fromkeys(owners))}"
            )
        for axis, length in axes:
            for i in known:
                if not -leaves[i].dim() <= axis < leaves[i].dim():
                    raise InputError(
                        f"dynamic=: {owners[i]} {list(leaves[i].shape)} has no axis {axis}"
                    )
                place = (i, axis % leaves[i].dim())
                by_length.setdefault(length or f"{owner}, {axis}", []).append(place)
    found = []
    for places in by_length.values():
        cut = list(leaves)
        for i, axis in places:
            size = cut[i].shape[axis]
            if size < 2:
                raise InputError(
                    f"dynamic=: {owners[i]} {list(cut[i].shape)} is too short along axis {axis} "
                    "to see what varies with it; give a longer calibration batch"
                )
            cut[i] = cut[i].narrow(axis, 0, (size + 1) // 2)
        args, kwargs = pytree.tree_unflatten(cut, spec)
        what = ", ".join(f"{owners[i]} {list(cut[i].shape)}" for i, _ in places)
        found.append((what, replace(given, args=args, kwargs=kwargs)))
    return found
