"""Where the images of a batch lie in a tensor inside a network, by what the first of them gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..calls.batch_layout import Layout, blocks


def image_layout(many: Sequence[Tensor], single: Sequence[Tensor], images: int) -> Layout:
    """The axis along which images lie, and whether they are mixed there with something else.

    Args:
        many: values ``[...]`` of a batch at one place, or several such.
        single: the same of its first image alone.
        images: of the batch.
    """
    shape, one = many[0].shape, single[0].shape
    if shape == one:
        return Layout(0, 1, one[0]) if len(one) and one[0] > 1 and images == 1 else Layout(0)
    axis = next(i for i, (a, b) in enumerate(zip(shape, one, strict=True)) if a != b)
    ways = [Layout(axis, *way) for way in blocks(shape[axis], images)]
    alone = Layout(axis, 1, one[axis])
    for layout in ways:
        pairs = zip(many, single, strict=True)
        if all(torch.equal(layout.by_image(a)[0], alone.by_image(b)[0]) for a, b in pairs):
            return layout
    return ways[0]
