"""Finds which axis of every input holds the images of a batch, by what the model does with them.

An axis is the batch's if changing one image changes that image's part of every output and nothing
else. The first, a middle and the last image are changed: a causal network over time keeps the last
step apart from the others, but not the first.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import CaptureError, InputError
from .batch_layout import Axes, Layout, blocks, fresh_sizes, resized, tensor_sizes

# What a user may say: one axis for all inputs, or by the name of an input.
Asked = int | Mapping[str, int | None] | None

# Changes of an output up to this share of its largest value are rounding.
_ROUNDING = 1e-6
# So many ways to read the axes of several inputs are tried for each axis of the first.
_MOST = 64


@dataclass(frozen=True)
class Batch:
    """Where the batch is.

    Args:
        axes: of every flat input.
        outputs: of every flat output; None for what is no floating-point tensor. Empty where the
            model refused to say.
        mixes: whether an output that holds images depends on other images too.
        notes: what the user should know of it.
    """

    axes: Axes
    outputs: tuple[Layout | None, ...] = ()
    mixes: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Seen:
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


def find_batch(
    model: nn.Module, inputs: tuple[Any, Any], owners: Sequence[str], asked: Asked = None
) -> Batch:
    """The batch axis of every input, the layout of every output, and whether images are mixed.

    Args:
        model: in eval mode; it is called some times on a few images.
        inputs: positional and keyword inputs of a batch.
        owners: the name of every flat input.
        asked: the axis, where the user says it.

    Raises:
        InputError: for an axis or a name that the inputs don't have.
        CaptureError: if what the model does speaks for no axis, or for several.
    """
    leaves, spec = pytree.tree_flatten(inputs)
    said = _said(leaves, owners, asked)
    for owner, leaf in zip(owners, leaves, strict=True):
        if _has_axes(leaf) and not leaf.numel():
            raise InputError(
                f"a calibration batch has no rows: {owner} is {list(leaf.shape)}; give at least "
                "one image"
            )
    trial = _Trial(model, spec, leaves)
    before = torch.backends.mha.get_fastpath_enabled()
    # Fused attention leaves out positions that a mask hides, so that shapes depend on values.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _search(trial, leaves, owners, said, asked)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _search(
    trial: _Trial,
    leaves: Sequence[Any],
    owners: Sequence[str],
    said: Mapping[int, int | None],
    asked: Asked,
) -> Batch:
    carriers = [
        i for i, leaf in enumerate(leaves) if _has_axes(leaf) and said.get(i, 0) is not None
    ]
    if not carriers:
        raise InputError("batch_axis leaves no input with a batch; name the axis of one at least")
    seen: list[_Seen] = []
    for carrier in carriers:
        lengths = range(leaves[carrier].dim())
        for axis in [said[carrier]] if carrier in said else lengths:
            assert axis is not None
            found = _first_that_runs(trial, _ways(leaves, carrier, axis, said))
            if found is None:
                continue
            seen.append(found)
            if found.passes and axis == 0 and not _left_out(found, leaves):
                return _told(found, owners)
        if any(s.passes for s in seen):
            break
    return _chosen(seen, leaves, owners, carriers[0], said, asked)


def _chosen(
    seen: Sequence[_Seen],
    leaves: Sequence[Any],
    owners: Sequence[str],
    carrier: int,
    said: Mapping[int, int | None],
    asked: Asked,
) -> Batch:
    """What the trials speak for, none of which was clear at once."""
    passing = [s for s in seen if s.passes]
    if passing:
        best = passing[0]
        for other in passing[1:]:
            if other.inputs > best.inputs and _sequences(best, other, leaves, carrier):
                best = other
        first = next(axis for axis in best.axes if axis is not None)
        if first > 1 and asked is None:
            raise CaptureError(
                f"only axis {first} of {owners[carrier]} {list(leaves[carrier].shape)} keeps the "
                f"rows of the inputs apart; say batch_axis={first} if these are the images, else "
                "batch_axis=0"
            )
        return _told(best, owners)
    first_axis = [s for s in seen if s.axes[carrier] == 0 or carrier in said]
    if not first_axis:
        # The model refuses: what is said of that is the capture's matter.
        return Batch(next(_ways(leaves, carrier, said.get(carrier) or 0, said)))
    chosen = first_axis[0]
    partly = [s for s in seen if s.apart and s is not chosen]
    if partly and not chosen.apart and not chosen.mixed and asked is None:
        axis = next(a for a in partly[0].axes if a is not None)
        raise CaptureError(
            f"axis 0 of {owners[carrier]} {list(leaves[carrier].shape)} is in no output, and along "
            f"axis {axis} some outputs mix their rows; say which is the images' by batch_axis="
        )
    return _told(chosen, owners)


def _sequences(best: _Seen, other: _Seen, leaves: Sequence[Any], carrier: int) -> bool:
    """Whether inputs that the first axes leave out are sequences of another length.

    Queries ``[T, N, F]`` are independent of each other, and so are the images of queries and keys
    ``[S, N, F]`` together.
    """
    left_out = [
        leaf
        for leaf, before, axis in zip(leaves, best.axes, other.axes, strict=True)
        if before is None and axis is not None
    ]
    return len(set(other.axes) - {None}) == 1 and all(
        leaf.dim() == leaves[carrier].dim() and leaf.shape[0] > 1 for leaf in left_out
    )


def _told(seen: _Seen, owners: Sequence[str]) -> Batch:
    """The finding, with notes where it isn't what most networks are."""
    outputs = seen.outputs
    mixes = seen.mixed > 0
    notes = []
    axes = {owner: axis for owner, axis in zip(owners, seen.axes, strict=True) if axis is not None}
    by_axis: dict[int, list[str]] = {}
    for owner, axis in axes.items():
        by_axis.setdefault(axis, []).append(owner)
    where = "; ".join(f"axis {axis} of {', '.join(on)}" for axis, on in by_axis.items())
    if any(by_axis):
        notes.append(f"the batch is {where}")
    whole = [i for i, layout in enumerate(outputs) if layout is not None and layout.mixes]
    if mixes:
        notes.append(
            f"the network mixes the images of a batch ({where}): what it gives for one depends on "
            "the others, and it is calibrated and evaluated in the batches that are given, whole; "
            "if the images are along another axis, say batch_axis="
        )
        outputs = tuple(
            None if layout is None else replace(layout, mixes=True) for layout in outputs
        )
    elif whole:
        named = ", ".join(f"output {i}" for i in whole)
        notes.append(
            f"{named} depends on all images of a batch: the network is calibrated and evaluated in "
            "the batches that are given, whole"
        )
    return Batch(seen.axes, outputs, mixes, tuple(notes))


def _has_axes(leaf: Any) -> TypeGuard[Tensor]:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def _left_out(seen: _Seen, leaves: Sequence[Any]) -> bool:
    """Whether an input with axes of its own has no batch."""
    return any(
        _has_axes(leaf) and axis is None for leaf, axis in zip(leaves, seen.axes, strict=True)
    )


def _said(leaves: Sequence[Any], owners: Sequence[str], asked: Asked) -> dict[int, int | None]:
    """What the user says of the flat inputs, by their place."""
    if asked is None:
        return {}
    tensors = {i: leaf for i, leaf in enumerate(leaves) if _has_axes(leaf)}
    if isinstance(asked, int):
        fits = {i for i, leaf in tensors.items() if -leaf.dim() <= asked < leaf.dim()}
        if not fits:
            shapes = ", ".join(f"{owners[i]} {list(leaf.shape)}" for i, leaf in tensors.items())
            raise InputError(f"batch_axis={asked} is no axis of any input; there are {shapes}")
        # The first input that has it; the others follow it where the model takes them so.
        return {min(fits): asked % tensors[min(fits)].dim()}
    known = {owner.partition("[")[0] for owner in owners} | set(owners)
    for name, axis in asked.items():
        if name not in known:
            raise InputError(
                f"batch_axis names an input {name!r}; the network takes {', '.join(sorted(known))}"
            )
        for i, leaf in tensors.items():
            of = name in (owners[i], owners[i].partition("[")[0])
            if of and axis is not None and not -leaf.dim() <= axis < leaf.dim():
                raise InputError(f"batch_axis: {owners[i]} {list(leaf.shape)} has no axis {axis}")
    said: dict[int, int | None] = {}
    for i, leaf in tensors.items():
        for name in (owners[i], owners[i].partition("[")[0]):
            if name in asked:
                axis = asked[name]
                said[i] = axis if axis is None else axis % leaf.dim()
                break
    lengths = {owners[i]: int(leaves[i].shape[a]) for i, a in said.items() if a is not None}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{owner}: {length}" for owner, length in lengths.items())
        raise InputError(f"along batch_axis the inputs have different lengths: {listed}")
    return said


def _ways(
    leaves: Sequence[Any], carrier: int, axis: int, said: Mapping[int, int | None]
) -> Iterator[Axes]:
    """Axes of all inputs where the first is known: those of the same length, then none."""
    images = leaves[carrier].shape[axis]
    options: list[list[int | None]] = []
    for i, leaf in enumerate(leaves):
        if i == carrier:
            options.append([axis])
        elif i in said or not _has_axes(leaf):
            options.append([said.get(i)])
        else:
            alike = [a for a, length in enumerate(leaf.shape) if length == images]
            alike.sort(key=lambda place: place != axis)
            options.append([*alike, None])
    return itertools.islice(itertools.product(*options), _MOST)


def _first_that_runs(trial: _Trial, ways: Iterator[Axes]) -> _Seen | None:
    for axes in ways:
        seen = trial.seen(axes)
        if seen is not None:
            return seen
    return None


class _Trial:
    """Calls the model with changed images.

    Args:
        model: what is called.
        spec: tree of the inputs.
        leaves: flat inputs of a batch.
    """

    def __init__(self, model: nn.Module, spec: pytree.TreeSpec, leaves: Sequence[Any]) -> None:
        self._model, self._spec, self._leaves = model, spec, leaves
        self._sizes = fresh_sizes(tensor_sizes(leaves))

    def seen(self, axes: Axes) -> _Seen | None:
        """What comes of taking these axes as the batch's; None if the model refuses."""
        images, other = self._sizes
        given = resized(self._leaves, axes, images)
        outputs = self._call(given)
        if outputs is None:
            return None
        changes: list[tuple[int, list[Tensor | None]]] = []
        for image in dict.fromkeys((0, images // 2, images - 1)):
            moved = self._call(_changed(given, axes, image, images))
            if moved is None or len(moved) != len(outputs):
                return None
            pairs = zip(outputs, moved, strict=True)
            changes.append((image, [_difference(a, b) for a, b in pairs]))
        fewer = self._call(resized(self._leaves, axes, other))
        if fewer is not None and len(fewer) != len(outputs):
            fewer = None
        return _judged(axes, outputs, changes, images, fewer, other)

    def _call(self, leaves: Sequence[Any]) -> list[Any] | None:
        args, kwargs = pytree.tree_unflatten(list(leaves), self._spec)
        try:
            return pytree.tree_leaves(self._model(*args, **kwargs))
        except Exception:
            return None


def _judged(
    axes: Axes,
    outputs: Sequence[Any],
    changes: Sequence[tuple[int, list[Tensor | None]]],
    images: int,
    fewer: Sequence[Any] | None,
    other: int,
) -> _Seen:
    layouts: list[Layout | None] = []
    apart = mixed = 0
    moved = False
    for index, output in enumerate(outputs):
        if not isinstance(output, Tensor):
            layouts.append(None)
            continue
        lengths = _lengths(output, None if fewer is None else fewer[index], images, other)
        seen = [(image, change[index]) for image, change in changes]
        alive = any(change is None or bool(change.any()) for _, change in seen)
        layout = _layout(output, seen, lengths, images) if alive else _plain(lengths, images)
        moved |= alive
        if layout is None:
            mixed += 1
            layout = replace(_plain(lengths, images), mixes=True)
        elif alive and layout.axis is not None:
            apart += 1
        elif alive:
            layout = replace(layout, mixes=True)
        layouts.append(layout if output.is_floating_point() else None)
    return _Seen(axes, tuple(layouts), apart, mixed, moved)


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


def _changed(leaves: Sequence[Any], axes: Axes, image: int, images: int) -> list[Any]:
    """The inputs with another image in the place of one.

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
    return made


def _difference(a: Any, b: Any) -> Tensor | None:
    """Where two outputs differ by more than rounding; None if their shapes do."""
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
    return ~(same | ((a - b).abs() <= _ROUNDING * scale))
