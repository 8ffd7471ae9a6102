"""Finds which axis of every input holds the images of a batch, by what the model does with them.

An axis is the batch's if changing one image changes that image's part of every output and nothing
else. The first, a middle and the last image are changed: a causal network over time keeps the last
step apart from the others, but not the first.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..calls.batch_layout import Axes, Batch
from ..errors import CaptureError, InputError
from .batch_trial import Seen, Trial
from .examples import DIVISORS, EXPORTED_ROWS

# What a user may say: one axis for all inputs, or by the name of an input.
Asked = int | Mapping[str, int | None] | None

# So many ways to read the axes of several inputs are tried for each axis of the first.
_MOST = 64
# And so many of them where the model wants a multiple of some images.
_MOST_IN_MULTIPLES = 2


def find_batch(
    model: nn.Module,
    inputs: tuple[Any, Any],
    owners: Sequence[str],
    asked: Asked = None,
    device: torch.device | None = None,
) -> Batch:
    """The batch axis of every input, the layout of every output, and whether images are mixed.

    Args:
        model: in eval mode; it is called some times on a few images.
        inputs: positional and keyword inputs of a batch.
        owners: the name of every flat input.
        asked: the axis, where the user says it.
        device: where the model is; the inputs' own if None.

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
                "one image, and texts of one token at least"
            )
    trial = Trial(model, spec, leaves, device)
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
    trial: Trial,
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
    seen: list[Seen] = []
    for carrier in carriers:
        lengths = range(leaves[carrier].dim())
        for axis in [said[carrier]] if carrier in said else lengths:
            assert axis is not None
            found = _first_that_runs(trial, _ways(leaves, carrier, axis, said))
            if found is None:
                continue
            seen.append(found)
            if found.passes and axis == 0 and not _left_out(found, leaves):
                return _told(found, owners, asked)
        if any(s.passes for s in seen):
            break
    return _chosen(seen, leaves, owners, carriers[0], said, asked)


def _chosen(
    seen: Sequence[Seen],
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
        return _told(best, owners, asked)
    first_axis = [s for s in seen if s.axes[carrier] == 0 or carrier in said]
    if not first_axis:
        # The model refuses: what is said of that is the capture's matter.
        return Batch(next(_ways(leaves, carrier, said.get(carrier) or 0, said)))
    chosen = first_axis[0]
    partly = [s for s in seen if (s.apart or s.mixed) and s is not chosen]
    if partly and not chosen.apart and not chosen.mixed and asked is None:
        axis = next(a for a in partly[0].axes if a is not None)
        raise CaptureError(
            f"axis 0 of {owners[carrier]} {list(leaves[carrier].shape)} is in no output, and along "
            f"axis {axis} some outputs mix their rows; say which is the images' by batch_axis="
        )
    return _told(chosen, owners, asked)


def _sequences(best: Seen, other: Seen, leaves: Sequence[Any], carrier: int) -> bool:
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


def _told(seen: Seen, owners: Sequence[str], asked: Asked) -> Batch:
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
            "the others, on its place or on their number, and it is calibrated and evaluated in "
            "the batches that are given, whole; its multiply-accumulates are those of an image "
            f"among {EXPORTED_ROWS}; if the images are along another axis, say batch_axis="
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
    doubtful = bool(mixes or whole or (asked is None and next(iter(axes.values()))))
    return Batch(seen.axes, outputs, mixes, tuple(notes), doubtful, seen.unit, seen.grouped)


def told_by_labels(batch: Batch, leaves: Sequence[Any], owners: Sequence[str], label: Any) -> Batch:
    """The finding, doubted where a batch has one label for each row of another axis.

    Args:
        batch: the finding.
        leaves: flat inputs.
        owners: the name of every flat input.
        label: of the batch, in any form.
    """
    plain = hasattr(label, "shape") or isinstance(label, list)
    shape = tuple(getattr(label, "shape", (len(label),))) if plain else ()
    if not shape or any(n != 1 for n in shape[1:]):
        return batch
    held = [(i, leaf, axis) for i, (leaf, axis) in enumerate(zip(leaves, batch.axes, strict=True))]
    taken = [(i, leaf, axis) for i, leaf, axis in held if axis is not None]
    if any(leaf.shape[axis] == shape[0] for _, leaf, axis in taken):
        return batch
    for i, leaf, axis in taken:
        if shape[0] in leaf.shape[:-1]:
            other = leaf.shape.index(shape[0])
            note = (
                f"a batch has {shape[0]} labels, but axis {axis} of {owners[i]} "
                f"{list(leaf.shape)} was taken for the images; if they are along axis {other}, "
                f"say batch_axis={other}"
            )
            return replace(batch, notes=(*batch.notes, note), doubtful=True)
    return batch


def _has_axes(leaf: Any) -> TypeGuard[Tensor]:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def _left_out(seen: Seen, leaves: Sequence[Any]) -> bool:
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


def _first_that_runs(trial: Trial, ways: Iterator[Axes]) -> Seen | None:
    known = list(ways)
    for unit in DIVISORS:
        for axes in known if unit == 1 else known[:_MOST_IN_MULTIPLES]:
            seen = trial.seen(axes, unit)
            if seen is not None:
                return seen
    return None
