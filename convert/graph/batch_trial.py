"""What a model does where some axes of its inputs are taken as the batch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .batch_layout import Axes, Layout, blocks, fresh_sizes, resized, tensor_sizes
from .fidelity import ROUNDING
from .own_classes import register

# Changes of an output up to this share of its largest value are rounding.
_ROUNDING = 1e-6
# The same image at another place, or among fewer, gives outputs that rounding alone may move: by
# this share at most, also in a network that makes much of it.
_ELSEWHERE = 0.02


@dataclass(frozen=True)
class Seen:
    """What the model does where these axes are taken as the batch's.

    Args:
        axes: of every flat input.
        outputs: of every flat output.
        apart: outputs that hold images and keep them apart, of which one saw a change.
        mixed: outputs that hold images and mix them.
        moved: whether any output changed.
    """

    axes: Axes
    outputs: tuple[Layout | None, ...]
    apart: int
    mixed: int
    moved: bool

    @property
    def passes(self) -> bool:
        """Whether these axes are independent of each other."""
        return self.apart > 0 and not self.mixed

    @property
    def inputs(self) -> int:
        """How many inputs have a batch."""
        return sum(axis is not None for axis in self.axes)


@dataclass(frozen=True)
class _Change:
    """A call with another image in the place of one.

    Args:
        image: whose place.
        source: which image stands there; None for its own values, changed.
        outputs: what the model gave.
    """

    image: int
    source: int | None
    outputs: list[Any]


class Trial:
    """Calls the model with changed images.

    Args:
        model: what is called.
        spec: tree of the inputs.
        leaves: flat inputs of a batch.
        device: where the model is; the inputs' own if None.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: pytree.TreeSpec,
        leaves: Sequence[Any],
        device: torch.device | None = None,
    ) -> None:
        self._model, self._spec, self._leaves, self._device = model, spec, leaves, device
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._alone = len(tensors) == 1
        self._lengths = tensor_sizes(leaves)

    def seen(self, axes: Axes) -> Seen | None:
        """What comes of taking these axes as the batch's; None if the model refuses."""
        # One input with the batch first can't be mistaken: the fewest images will do.
        plain = self._alone and 0 in axes
        images, other = fresh_sizes(set() if plain else self._lengths)
        given = resized(self._leaves, axes, images)
        outputs = self._call(given)
        if outputs is None:
            return None
        changes = []
        for image in dict.fromkeys((0, images // 2, images - 1)):
            inputs, source = _changed(given, axes, image, images)
            moved = self._call(inputs)
            if moved is None or len(moved) != len(outputs):
                return None
            changes.append(_Change(image, source, moved))
        fewer = self._call(resized(self._leaves, axes, other))
        if fewer is None or len(fewer) != len(outputs):
            fewer = [None] * len(outputs)
        return _judged(axes, outputs, changes, fewer, (images, other))

    def _call(self, leaves: Sequence[Any]) -> list[Any] | None:
        given = [leaf.to(self._device) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(given, self._spec)
        try:
            result = self._model(*args, **kwargs)
            register(result)
            return pytree.tree_leaves(result)
        except Exception:
            return None


def _judged(
    axes: Axes,
    outputs: Sequence[Any],
    changes: Sequence[_Change],
    fewer: Sequence[Any],
    sizes: tuple[int, int],
) -> Seen:
    """What the outputs say.

    Args:
        axes: that are taken as the batch's.
        outputs: of the images as they are.
        changes: of one.
        fewer: outputs of another number of images; None where the model refuses those.
        sizes: how many images, and that other number.
    """
    layouts: list[Layout | None] = []
    apart = mixed = 0
    moved = False
    for index, output in enumerate(outputs):
        if not isinstance(output, Tensor):
            layouts.append(None)
            continue
        seen = [(c.image, _difference(output, c.outputs[index])) for c in changes]
        lengths = _lengths(output, fewer[index], *sizes)
        alive = any(change is None or bool(change.any()) for _, change in seen)
        layout = _layout(output, seen, lengths, sizes[0]) if alive else _plain(lengths, sizes[0])
        if alive and layout is not None and layout.axis is not None:
            given = [(c.image, c.source, c.outputs[index]) for c in changes]
            if not _anywhere(layout, output, given, fewer[index], min(sizes)):
                layout = None
        moved |= alive
        if layout is None:
            mixed += 1
            layout = replace(_plain(lengths, sizes[0]), mixes=True)
        elif alive and layout.axis is not None:
            apart += 1
        elif alive:
            layout = replace(layout, mixes=True)
        layouts.append(layout if output.is_floating_point() else None)
    return Seen(axes, tuple(layouts), apart, mixed, moved)


def _anywhere(
    layout: Layout,
    output: Tensor,
    changes: Sequence[tuple[int, int | None, Tensor]],
    fewer: Any,
    common: int,
) -> bool:
    """Whether an image gives the same at another place, and in a batch of another size.

    Args:
        layout: of the output.
        output: of the images as they are.
        changes: the place, the image that stands there, and the output.
        fewer: of another number of images.
        common: images that both numbers of them have.
    """
    images = layout.by_image(output)
    pairs = [
        (images[source], layout.by_image(changed)[place])
        for place, source, changed in changes
        if source is not None
    ]
    if isinstance(fewer, Tensor) and fewer.dim() == output.dim():
        others = layout.by_image(fewer)
        if others.shape[1:] == images.shape[1:]:
            pairs.append((images[:common], others[:common]))
    if not output.is_floating_point():
        # The place of the largest of values that rounding moves isn't certain.
        return True
    share = max(_ELSEWHERE, ROUNDING.get(output.dtype, 0.0))
    differences = (_difference(a, b, share) for a, b in pairs)
    return not any(d is None or bool(d.any()) for d in differences)


def _lengths(output: Tensor, fewer: Any, images: int, other: int) -> list[tuple[int, bool, bool]]:
    """Of every axis: its length, whether that is a multiple of the images, and whether it varies.

    Args:
        output: of `images` images.
        fewer: the same output of `other` images; None if the model refuses those.
        images, other: how many.
    """
    if not isinstance(fewer, Tensor) or fewer.dim() != output.dim():
        return [(n, n % images == 0 and n > 0, False) for n in output.shape]
    return [
        (n, n > 0 and n * other == m * images, n != m)
        for n, m in zip(output.shape, fewer.shape, strict=True)
    ]


def _plain(lengths: Sequence[tuple[int, bool, bool]], images: int) -> Layout:
    """The layout that shapes alone speak for."""
    holding = [(n != images, axis) for axis, (n, multiple, _) in enumerate(lengths) if multiple]
    if not holding:
        return Layout(None, varies=any(v for *_, v in lengths))
    axis = min(holding)[1]
    varies = any(v for other, (*_, v) in enumerate(lengths) if other != axis)
    return Layout(axis, 1, lengths[axis][0] // images, varies=varies)


def _layout(
    output: Tensor,
    seen: Sequence[tuple[int, Tensor | None]],
    lengths: Sequence[tuple[int, bool, bool]],
    images: int,
) -> Layout | None:
    """The layout in which every changed image is alone; None if there is none.

    An output without an axis that grows with the batch has a layout without an axis.
    """
    holding = [axis for axis, (_, multiple, _) in enumerate(lengths) if multiple]
    varies = [axis for axis, (*_, varying) in enumerate(lengths) if varying]
    if not holding:
        return None if varies else Layout(None)
    ways = [(b, a, axis) for axis in holding for b, a in blocks(output.shape[axis], images)]
    # Axes that hold one row of each image come first.
    for before, after, axis in sorted(ways, key=lambda way: way[0] * way[1] > 1):
        if all(
            change is not None and _alone(change, axis, before, after, image, images)
            for image, change in seen
        ):
            return Layout(axis, before, after, varies=any(v != axis for v in varies))
    return None


def _alone(change: Tensor, axis: int, before: int, after: int, image: int, images: int) -> bool:
    """Whether nothing but one image's part changed."""
    by_image = change.unflatten(axis, (before, images, after)).movedim(axis + 1, 0)
    others = torch.arange(images, device=change.device) != image
    return not bool(by_image[others].any())


def _changed(
    leaves: Sequence[Any], axes: Axes, image: int, images: int
) -> tuple[list[Any], int | None]:
    """The inputs with another image in the place of one, and which that is.

    Where all images are alike the image's own values change their places, or are moved.
    """
    batched = [i for i, axis in enumerate(axes) if axis is not None]

    def part(i: int, at: int) -> Tensor:
        axis = axes[i]
        assert axis is not None
        found: Tensor = leaves[i].select(axis, at)
        return found

    made = list(leaves)
    others = [(image + step) % images for step in range(1, images)]
    alike = [all(torch.equal(part(i, image), part(i, o)) for i in batched) for o in others]
    source = others[alike.index(False)] if not all(alike) else None
    for i in batched:
        if source is not None:
            new = part(i, source)
        else:
            old = part(i, image)
            new = old.flatten().roll(1).view(old.shape)
            if torch.equal(new, old) and old.is_floating_point():
                new = old + 1
        axis = axes[i]
        assert axis is not None
        made[i] = leaves[i].clone()
        made[i].select(axis, image).copy_(new)
    return made, source


def _difference(a: Any, b: Any, share: float = _ROUNDING) -> Tensor | None:
    """Where two outputs differ by more than a share of the largest; None if their shapes do."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return torch.zeros(0, dtype=torch.bool)
    if a.shape != b.shape:
        return None
    if not a.is_floating_point():
        return a != b
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return ~(same | ((a - b).abs() <= share * scale))
