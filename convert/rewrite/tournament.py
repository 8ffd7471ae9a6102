"""Maxima as tournaments: ``max(a, b) = a + relu(b - a)``, level by level.

A window of n elements is split at the largest power of two below n, so that a tournament has
ceil(log2 n) levels. One level of all windows is one difference, one ReLU and one sum of whole
tensors; windows that overlap share the pairs that they have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.fx import Node

from ..graph.edit import SITE_NAME, Emitter

aten = torch.ops.aten

# Positions along one axis whose maximum is wanted.
Window = tuple[int, ...]


@dataclass(frozen=True)
class Level:
    """One level of a tournament, as places in the values of the level before.

    Args:
        left, right: what meets, pair by pair.
        kept: what goes on without a pair; its values come after those of the pairs.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    kept: tuple[int, ...]


def plan(windows: Sequence[Window]) -> tuple[list[Level], list[int]]:
    """The levels for windows along an axis, and where each window's maximum is in the end.

    Args:
        windows: positions, increasing and at least one in each.
    """
    splits: list[dict[Window, tuple[Window, Window] | None]] = []
    wanted = list(dict.fromkeys(windows))
    while any(len(window) > 1 for window in wanted):
        # A window meets on the last level that its length allows: others wait for it.
        depth = max(len(window) - 1 for window in wanted).bit_length()
        parts: dict[Window, tuple[Window, Window] | None] = {}
        for window in wanted:
            half = 1 << (depth - 1)
            parts[window] = (window[:half], window[half:]) if len(window) > half else None
        splits.append(parts)
        wanted = list(dict.fromkeys(w for k, v in parts.items() for w in (v or (k,))))
    place = {window: window[0] for window in wanted}
    levels = []
    for parts in reversed(splits):
        pairs = [(window, split) for window, split in parts.items() if split is not None]
        kept = [window for window, split in parts.items() if split is None]
        levels.append(
            Level(
                tuple(place[split[0]] for _, split in pairs),
                tuple(place[split[1]] for _, split in pairs),
                tuple(place[window] for window in kept),
            )
        )
        order = [window for window, _ in pairs] + kept
        place = {window: index for index, window in enumerate(order)}
    return levels, [place[window] for window in windows]


def maximum(
    emit: Emitter, value: Node, axis: int, windows: Sequence[Window], first: int = 1
) -> tuple[Node, int]:
    """The maximum of every window along one axis.

    Args:
        emit: puts the operations in place.
        value: the tensor.
        axis: of it.
        windows: for every place of the result, the positions that it covers.
        first: number of the first level, for the names of the sites.

    Returns:
        The result and the number of the next level.
    """
    call = emit.call
    levels, places = plan(windows)
    for level in levels:
        a, b = (pick(emit, value, axis, side) for side in (level.left, level.right))
        ramp = call(aten.relu.default, call(aten.sub.Tensor, b, a))
        ramp.meta[SITE_NAME] = f"max_level{first}"
        result = call(aten.add.Tensor, a, ramp)
        if level.kept:
            result = call(aten.cat.default, [result, pick(emit, value, axis, level.kept)], axis)
        value, first = result, first + 1
    return pick(emit, value, axis, places), first


def pick(emit: Emitter, value: Node, axis: int, places: Sequence[int]) -> Node:
    """Elements along an axis: a slice where they lie evenly, else a selection."""
    length = int(value.meta["val"].shape[axis])
    if list(places) == list(range(length)):
        return value
    steps = {b - a for a, b in pairwise(places)} or {1}
    step = min(steps)
    if len(steps) == 1 and step > 0:
        return emit.call(aten.slice.Tensor, value, axis, places[0], places[-1] + 1, step)
    index = emit.constant("places", torch.tensor(places))
    return emit.call(aten.index_select.default, value, axis, index)
