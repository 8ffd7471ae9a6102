"""Maxima as tournaments of ReLUs."""

from __future__ import annotations

import math

import torch
from torch.fx import GraphModule, Node

from ..graph import fold
from ..graph.edit import Emitter
from ..graph.regions import Regions
from .maxima import Maximum
from .tournament import maximum
from .unmask import Unmasked

aten = torch.ops.aten


def take_maxima_apart(graph_module: GraphModule, maxima: list[Maximum]) -> list[Maximum]:
    """Makes maxima tournaments; those whose masks are beyond reach stay and are returned."""
    left = []
    # A maximum of maxima reads what the first one became.
    became: dict[Node, Node] = {}
    given = Regions(graph_module).given
    for each in maxima:
        emit = Emitter(graph_module, each.result)
        each.source = value = became.get(each.source, each.source)
        if not each.pools:
            value = Unmasked(emit, each, given).clean(value)
        if each.masked and value is each.source:
            left.append(each)
            continue
        became[each.result] = _apart(emit, each, value)
    fold.tidy(graph_module)
    return left


def _apart(emit: Emitter, each: Maximum, value: Node) -> Node:
    call = emit.call
    if each.sign < 0:
        value = call(aten.neg.default, value)
    axes, level = dict(each.axes), 1
    shape, whole = value.meta["val"].shape, each.whole()
    if len(whole) > 1 and whole == list(range(whole[0], len(shape))):
        # All of several axes at once has fewer levels than one axis after the other.
        size = [
            n if isinstance(n, int) else call(aten.sym_size.int, value, axis)
            for axis, n in enumerate(shape[: whole[0]])
        ]
        value = call(aten.reshape.default, value, [*size, math.prod(shape[whole[0] :])])
        windows = [tuple(range(math.prod(shape[whole[0] :])))]
        value, level = maximum(emit, value, whole[0], windows, level)
        value = call(aten.reshape.default, value, [*size, *[1] * len(whole)])
        axes = {axis: windows for axis, windows in axes.items() if axis not in whole}
    for axis, windows in axes.items():
        value, level = maximum(emit, value, axis, windows, level)
    if each.sign < 0:
        value = call(aten.neg.default, value)
    if not each.keepdim:
        value = call(aten.squeeze.dims, value, list(each.axes))
    emit.replace(each.result, value)
    return value
