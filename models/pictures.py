"""Rows of small images in one picture."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from .errors import DataError
from .files import whole_file

# Side of one image in inches, and how many pixels are drawn for one of an image.
_SIDE = 0.62
_FINER = 10


def draw_rows(
    rows: Mapping[str, Tensor], path: str | os.PathLike[str], *, count: int = 14, title: str = ""
) -> None:
    """The first images of every row, one row below the other, with the row's name beside it.

    Pixels are interpolated (bicubic), so that small images can be looked at.

    Args:
        rows: images ``[N, 1, H, W]`` in -1..1 by name.
        path: a picture file; the ending chooses its format. Written whole or not at all.
        count: images in a row.
        title: above the rows.

    Raises:
        DataError: without images.
    """
    # matplotlib takes half a second to import; only who draws pays for it.
    from matplotlib.figure import Figure

    count = min([count, *map(len, rows.values())])
    if not rows or count < 1:
        raise DataError("a picture of no images; give at least one row with one image")
    figure = Figure(
        figsize=(1.6 + _SIDE * count, _SIDE * len(rows) + 0.35 * bool(title)), layout="constrained"
    )
    for axes, (name, images) in zip(
        figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True
    ):
        # Blocks of 8x8 hide a digit from the eye; smoothed they show it.
        finer = functional.interpolate(images[:count].cpu(), scale_factor=_FINER, mode="bicubic")
        # White between neighbours.
        framed = functional.pad(finer[:, 0], (0, _FINER // 2), value=1.0)
        axes.imshow(torch.cat(list(framed), 1), cmap="gray", vmin=-1, vmax=1)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    with whole_file(path, DataError) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")
