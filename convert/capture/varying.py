"""Which lengths of the inputs vary beside the batch: those that batches show or a user asks for.

The model itself is tried with other lengths: it says which inputs go together, and which lengths
it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..calls.batch_layout import Axes, resized
from ..calls.size_bounds import ANY, SizeBounds
from ..calls.sizes import Place, Shapes, Size, as_asked, names_for
from ..common.messages import first_line
from ..errors import CaptureError, InputError
from .fidelity import CHECKED_ROWS

# Axes by the name of an input, each with the name of its length; None for any name.
Dynamic = Mapping[str, Sequence[tuple[int, str | None]]]
# Lengths by name.
Lengths = Mapping[str, int]

# How far from the example's other lengths lie that are tried.
_STEPS = (1, -1, 2, -2, 4, -4, 8, -8, 16, -16, 32, -32)
# So many images are exported: lengths that differ from it can't be taken for it.
_EXPORTED = 5


@dataclass(frozen=True)
class Varying:
    """A length that varies.

    Args:
        name: what it is called.
        places: the flat inputs and axes that have it.
        exported: the length of the example that is exported.
        checked: another one that the model takes; on it the graph is compared.
        asked: whether the user asked for it; else batches show it.
        bounds: the lengths that the graph holds for.
    """

    name: str
    places: tuple[Place, ...]
    exported: int
    checked: int
    asked: bool = False
    bounds: SizeBounds = ANY

    @property
    def size(self) -> Size:
        """What a signature keeps of it."""
        return Size(self.name, self.exported, self.bounds)


def with_lengths(leaves: Sequence[Any], varying: Sequence[Varying], lengths: Lengths) -> list[Any]:
    """Flat inputs cut to these lengths, or repeated up to them.

    Args:
        leaves: flat inputs.
        varying: where lengths vary.
        lengths: the new ones, by name.
    """
    made = list(leaves)
    for each in varying:
        for leaf, axis in each.places:
            alone: Axes = (axis,)
            if made[leaf].shape[axis] != lengths[each.name]:
                made[leaf] = resized([made[leaf]], alone, lengths[each.name])[0]
    return made


def find_varying(
    model: nn.Module,
    inputs: tuple[Any, Any],
    axes: Axes,
    owners: Sequence[str],
    asked: Dynamic | None,
    seen: Sequence[Shapes],
    images: int,
) -> tuple[Varying, ...]:
    """The lengths that vary; the model is called some times on a few images.

    Args:
        model: in eval mode.
        inputs: positional and keyword inputs of a batch.
        axes: the batch axis of every flat input.
        owners: the name of every flat input.
        asked: what the user asks for.
        seen: shapes of other batches.
        images: of the batches that the model is tried on.

    Raises:
        InputError: for an input or an axis that isn't there.
        CaptureError: if the model takes no other length than the example's.
    """
    leaves, spec = pytree.tree_flatten(inputs)
    said = _said(leaves, axes, owners, asked or {})
    rows = [[_shape(leaf) for leaf in leaves]]
    for shapes in seen:
        row = [shapes.get(owner) for owner in owners]
        if list(map(_rank, row)) == list(map(_rank, rows[0])):
            rows.append(row)
    places = list(said)
    for leaf, shape in enumerate(rows[0]):
        for axis, length in enumerate(shape or ()):
            varies = any(row[leaf][axis] != length for row in rows)  # type: ignore[index]
            if varies and axis != axes[leaf] and (leaf, axis) not in said:
                places.append((leaf, axis))
    if not places:
        return ()
    known = {place: name for place, name in said.items() if name is not None}
    names = names_for(places, rows, owners, known)
    by_name: dict[str, list[Place]] = {}
    for place, name in names.items():
        by_name.setdefault(name, []).append(place)
    asked_for = {names[place] for place in said}
    found = [
        Varying(name, tuple(held), _common(name, held, rows[0], owners), 0, name in asked_for)
        for name, held in by_name.items()
    ]
    trial = _Trial(model, resized(leaves, axes, images), spec, axes)
    rows_seen = [{v.name: row[v.places[0][0]][v.places[0][1]] for v in found} for row in rows[1:]]  # type: ignore[index]
    return _with_examples(trial, found, rows_seen, owners)


def _with_examples(
    trial: _Trial, found: Sequence[Varying], seen: Sequence[Lengths], owners: Sequence[str]
) -> tuple[Varying, ...]:
    """The same with lengths to export and to check on, that the model takes.

    Args:
        trial: calls the model.
        found: lengths that vary; `exported` is that of the example.
        seen: of other batches.
        owners: the name of every flat input.
    """
    own = {v.name: v.exported for v in found}
    for linked in trial.linked(found):
        taken: list[Lengths] = [own] if min(own.values()) > 1 else []
        for lengths in _candidates(own, seen):
            if lengths not in taken and trial.takes(linked, lengths):
                taken.append(lengths)
            if len(taken) > 1 and any(map(_distinct, taken)):
                break
        if len(taken) > 1:
            taken.sort(key=_distinct, reverse=True)
            exported, *others = taken
            others.sort(key=lambda o: -sum(o[n] != exported[n] for n in o))
            return tuple(_made(v, exported[v.name], others[0][v.name]) for v in linked)
    places = [(owners[leaf], axis, v.name) for v in found for leaf, axis in v.places]
    only = " x ".join(str(v.exported) for v in found)
    names = " and ".join(v.name for v in found)
    why = f" ({trial.refusal})" if trial.refusal else ""
    advice = (
        f"leave out {as_asked(places)}"
        if any(v.asked for v in found)
        else "the calibration batches have others: give batches of this size alone"
    )
    raise CaptureError(f"{names} must be {only}: the model takes no other{why}; {advice}")


def _made(v: Varying, exported: int, checked: int) -> Varying:
    return Varying(v.name, v.places, exported, checked, v.asked)


class _Trial:
    """Calls a model with other lengths.

    Args:
        model: what is called.
        leaves: flat inputs of a few images.
        spec: their tree.
        axes: the batch axis of every flat input.

    Attributes:
        refusal: what the model said when it first refused.
    """

    def __init__(
        self, model: nn.Module, leaves: Sequence[Any], spec: pytree.TreeSpec, axes: Axes
    ) -> None:
        self._model, self._leaves, self._spec, self._axes = model, leaves, spec, axes
        self.refusal = ""

    def takes(self, varying: Sequence[Varying], lengths: Lengths) -> bool:
        """Whether the model takes inputs of these lengths."""
        made = with_lengths(self._leaves, varying, lengths)
        args, kwargs = pytree.tree_unflatten(made, self._spec)
        try:
            with torch.no_grad():
                self._model(*args, **kwargs)
        except Exception as error:
            self.refusal = self.refusal or first_line(error)
            return False
        return True

    def linked(self, varying: Sequence[Varying]) -> Iterator[list[Varying]]:
        """The lengths that vary, and with other axes of the same length that may go with them.

        Those come first where a length is 1: what stays 1 would be spread over any other.
        """
        linked = list(self._with_others(varying))
        alone = [list(varying)]
        yield from [*linked, *alone] if any(v.exported == 1 for v in varying) else alone + linked

    def _with_others(self, varying: Sequence[Varying]) -> Iterator[list[Varying]]:
        taken = {place for v in varying for place in v.places}
        free: list[tuple[str, Place]] = []
        for v in varying:
            for leaf, tensor in enumerate(self._leaves):
                for axis, length in enumerate(_shape(tensor) or ()):
                    place = leaf, axis
                    if length == v.exported and axis != self._axes[leaf] and place not in taken:
                        taken.add(place)
                        free.append((v.name, place))
        for chosen in [free, *([one] for one in free)] if len(free) > 1 else [free] * bool(free):
            yield [
                Varying(
                    v.name,
                    (*v.places, *(place for name, place in chosen if name == v.name)),
                    v.exported,
                    0,
                    v.asked,
                )
                for v in varying
            ]


def _candidates(own: Lengths, seen: Sequence[Lengths]) -> Iterator[Lengths]:
    """Lengths to try: those of other batches, then some near the example's."""
    yield from (lengths for lengths in seen if min(lengths.values()) > 1)
    for spread in (1, 0) if len(own) > 1 else (0,):
        for step in _STEPS:
            made = {
                n: length + step * (1 + spread * i) for i, (n, length) in enumerate(own.items())
            }
            if min(made.values()) > 1:
                yield made
    yield {name: 2 * length for name, length in own.items()}


def _distinct(lengths: Lengths) -> bool:
    """Whether no length can be taken for another, or for the number of images."""
    found = [*lengths.values(), CHECKED_ROWS, _EXPORTED]
    return len(set(found)) == len(found)


def _said(
    leaves: Sequence[Any], axes: Axes, owners: Sequence[str], asked: Dynamic
) -> dict[Place, str | None]:
    """What the user asks for, by place; the batch varies anyway."""
    said: dict[Place, str | None] = {}
    for owner, wanted in asked.items():
        places = [
            i
            for i, (name, leaf) in enumerate(zip(owners, leaves, strict=True))
            if owner in (name, name.partition("[")[0]) and isinstance(leaf, Tensor)
        ]
        if not places:
            raise InputError(
                f"dynamic names an input {owner!r}; the network takes {', '.join(owners)}"
            )
        for leaf in places:
            rank = leaves[leaf].dim()
            for axis, name in wanted:
                if not -rank <= axis < rank:
                    raise InputError(
                        f"dynamic: {owners[leaf]} {list(leaves[leaf].shape)} has no axis {axis}"
                    )
                if axis % rank != axes[leaf]:
                    said[leaf, axis % rank] = name
    return said


def _common(name: str, places: Sequence[Place], row: Sequence[Any], owners: Sequence[str]) -> int:
    """The length that several axes of a batch have.

    Raises:
        InputError: if they have several.
    """
    lengths = {f"{owners[leaf]} (axis {axis})": int(row[leaf][axis]) for leaf, axis in places}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{place}: {length}" for place, length in lengths.items())
        raise InputError(
            f"dynamic gives one name, {name!r}, to different lengths: {listed}; give each its own"
        )
    return next(iter(lengths.values()))


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else None


def _rank(shape: tuple[int, ...] | None) -> int | None:
    return None if shape is None else len(shape)
