"""What each part of a batch is: an input, the label, or neither. One form of batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

from ..common.label_names import (
    DENSE_LABELS,
    INPUTS,
    MAYBE_LABELS,
    SURELY_LABELS,
    is_surely_label,
    label_among,
    named_parts,
)
from ..errors import InputError
from .batch_parts import (
    are_samples,
    are_single_images,
    check_values,
    holds_images,
    integral,
    is_tensor,
    is_text,
    kind_of,
    label_like,
    listed,
    ordinal,
    stacked,
    whole_numbers,
    with_tensors,
)
from .forward_parameters import Parameters


@dataclass(frozen=True)
class Given:
    """A batch, read.

    Args:
        args, kwargs: the inputs of a call.
        label: what the batch has as its label; None without one.
        names: the parameters that are given, in order.
        label_from: place or name of the label in the batch.
        notes: how it was read, where that isn't plain.
        others: a dict of arrays beside the inputs, where nothing in the batch is the label: several
            targets, for who knows them.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    label: Any = None
    names: tuple[str, ...] = ()
    label_from: int | str | None = None
    notes: tuple[str, ...] = ()
    others: dict[str, Any] | None = None

    @property
    def targets(self) -> Any:
        """The label, or the several targets where there is none."""
        return self.others if self.label is None else self.label


def read_batch(batch: Any, parameters: Parameters) -> Given:
    """What a network takes out of a batch, and the batch's label.

    Raises:
        InputError: for a batch that can't be read, with the form that would do.
    """
    batch = with_tensors(batch)
    check_values(batch)
    if isinstance(batch, Tensor):
        return _one(batch, parameters)
    named = named_parts(batch)
    if isinstance(batch, tuple) and named is not None and not _tells(named, parameters):
        named = None  # a named tuple whose names say nothing is a tuple
    if named is not None:
        return _by_name(named, parameters, whole=True)
    if isinstance(batch, tuple | list):
        if not batch:
            raise InputError("a batch is an empty tuple; give (inputs, label) or a tensor")
        return _in_order(batch, parameters)
    raise InputError(
        f"a batch holds a {kind_of(batch)}; give a tensor, (inputs, label), or a dict of keyword "
        f"inputs: {parameters.form()}"
    )


def _one(x: Tensor, parameters: Parameters) -> Given:
    """A batch that is one tensor."""
    if parameters.least > 1:
        raise InputError(
            f"a batch is one tensor, but the network takes {parameters.least} inputs; give "
            f"{parameters.form()}"
        )
    return _given((x,), parameters)


def _given(
    values: Sequence[Any],
    parameters: Parameters,
    label: Any = None,
    label_from: int | str | None = None,
    notes: Sequence[str] = (),
) -> Given:
    """Inputs in the order of the parameters; those behind the positional ones go by name."""
    places = parameters.required if parameters.by_name else len(values)
    args, others = tuple(values[:places]), values[places:]
    kwargs = dict(zip(parameters.by_name, others, strict=False))
    names = [*parameters.names[:places]]
    names += [f"input{i}" for i in range(len(names), len(args))]
    return Given(args, kwargs, label, (*names, *kwargs), label_from, tuple(notes))


# Dicts.


def _tells(named: dict[Any, Any], parameters: Parameters) -> bool:
    """Whether the fields of a named tuple say what they are."""
    known = {*parameters.known, *INPUTS}
    inputs = [name for name in named if name in known]
    return bool(inputs) and (len(inputs) == len(named) or label_among(named) is not None)


def _by_name(named: dict[Any, Any], parameters: Parameters, *, whole: bool) -> Given:
    """A dict: keys that forward takes are inputs, others are the label or are left out.

    Args:
        named: what the batch holds.
        parameters: what the network takes.
        whole: False where a label follows, so that ``y`` may be an input.
    """
    if not named or not all(isinstance(name, str) for name in named):
        raise InputError(f"a batch is a dict without names; give {parameters.form()}")
    notes: list[str] = []
    label_name = _label_name(named, parameters, whole)
    if label_name in parameters.known:
        notes.append(
            f"{label_name!r} of a batch was read as the label and left out of the inputs, though "
            "forward takes it"
        )
    inputs = {
        name: named[name]
        for name in parameters.known
        if name in named
        and name != label_name
        and (name in parameters.needed or not (is_surely_label(name) or named[name] is None))
    }
    others = {
        name: value
        for name, value in named.items()
        if name not in inputs and name != label_name and value is not None
    }
    missing = [name for name in parameters.needed if name not in inputs]
    if not parameters.needed and not inputs and not (parameters.named and others):
        missing = [parameters.first]
    if len(missing) == 1 and parameters.takes_dict and missing[0] == parameters.first:
        inputs[missing[0]] = others
        others = {}
    elif len(missing) == 1:
        found = _the_input(missing[0], others, named, parameters)
        notes.append(f"{found!r} of a batch was read as the input {missing[0]!r}")
        inputs[missing[0]] = others.pop(found)
    elif missing:
        raise InputError(
            f"a batch has the keys {listed(named)}, the network takes {listed(parameters.needed)}"
            f"; give {parameters.form()}"
        )
    elif parameters.named:
        inputs |= {n: v for n, v in others.items() if not is_text(v) and not is_surely_label(n)}
        others = {n: v for n, v in others.items() if n not in inputs}
    if whole and label_name is None:
        label_name = next((n for n in DENSE_LABELS if isinstance(others.get(n), Tensor)), None)
        if label_name is not None:
            notes.append(f"{label_name!r} of a batch was read as the label")
            others.pop(label_name)
    if others:
        were = "was" if len(others) == 1 else "were"
        notes.append(f"{listed(others)} of a batch {were} left out: no input has that name")
    order = {name: i for i, name in enumerate(parameters.known)}
    kwargs = dict(sorted(inputs.items(), key=lambda pair: order.get(pair[0], len(order))))
    label = None if label_name is None else named[label_name]
    beside = _several(others)
    if not parameters.known and missing:
        args = tuple(kwargs.values())
        return Given(args, {}, label, ("input0",), label_name, tuple(notes), beside)
    return Given((), kwargs, label, tuple(kwargs), label_name, tuple(notes), beside)


def _label_name(named: dict[str, Any], parameters: Parameters, whole: bool) -> str | None:
    """The key of a dict's label; an input that forward can't do without is none."""

    def barred(name: str) -> bool:
        maybe = name.lower() in MAYBE_LABELS and name in parameters.known
        return name in parameters.needed or (maybe and not whole)

    return label_among(named, barred=barred)


def _the_input(
    missing: str, others: dict[str, Any], named: dict[str, Any], parameters: Parameters
) -> str:
    """The key that holds the one input that a dict doesn't name as forward does."""
    tensors = [
        name
        for name, value in others.items()
        if isinstance(value, Tensor) and value.dim() and name not in parameters.known
    ]
    lower = {name.lower(): name for name in tensors}
    known = [lower[name] for name in INPUTS if name in lower]
    if known:
        return known[0]
    likely = [name for name in tensors if name.lower() not in DENSE_LABELS]
    if len(likely) == 1:
        return likely[0]
    raise InputError(
        f"a batch has the keys {listed(named)}, of which none is sure to be the input {missing!r}; "
        f'give {parameters.form()}, or {{"{missing}": {{...}}}} where that is a dict itself'
    )


# Tuples and lists.


def _in_order(batch: Sequence[Any], parameters: Parameters) -> Given:
    """A tuple or list: inputs, then what follows them."""
    if are_samples(batch):
        return _collated(batch, parameters)
    if are_single_images(batch, parameters):
        notes = ["a batch is a list of single images; they were put together into one tensor"]
        return _given((stacked(batch),), parameters, notes=notes)
    first = batch[0]
    named = None if isinstance(first, tuple) and hasattr(first, "_fields") else named_parts(first)
    if named is not None:
        inner = _by_name(named, parameters, whole=len(batch) == 1)
        return _labelled(inner, batch, 1) if len(batch) > 1 else inner
    if isinstance(first, tuple | list) and any(map(is_tensor, pytree.tree_leaves(first))):
        return _nested(batch, parameters)
    return _flat(batch, parameters)


def _flat(batch: Sequence[Any], parameters: Parameters) -> Given:
    """Inputs one after the other, then the label: ``(x, t, label)``."""
    start = _start(batch, parameters)
    notes = [
        f"the {ordinal(i)} element of a batch is no input and was left out" for i in range(start)
    ]
    end = start + parameters.least
    if parameters.unordered:
        raise InputError(
            f"a batch is a {type(batch).__name__}, but the network was converted with inputs by "
            f"name; give {parameters.form()}"
        )
    if len(batch) < end:
        raise InputError(
            f"a batch has {len(batch)} elements, but the network takes {parameters.least} inputs; "
            f"give all of them, then the label, if any: {parameters.form()}"
        )
    if not isinstance(batch[start], Tensor):
        raise InputError(
            f"a batch holds a {kind_of(batch[start])}; give a tensor, (inputs, label), or a dict "
            f"of keyword inputs: {parameters.form()}"
        )
    end = _with_optional(batch, start, end, parameters, notes)
    given = _given(batch[start:end], parameters, notes=notes)
    return _labelled(given, batch, end)


def _start(batch: Sequence[Any], parameters: Parameters) -> int:
    """Where the inputs begin: behind names of files, and behind the images' own numbers."""
    start = 0
    while start < len(batch) - parameters.least and is_text(batch[start]):
        start += 1
    if start and whole_numbers(batch[start]):
        start = 0  # labels of texts
    if parameters.dims:
        wanted = list(zip(parameters.dims, parameters.dtypes, strict=True))[: parameters.least]
        for begin in range(start, len(batch) - len(wanted) + 1):
            found = batch[begin : begin + len(wanted)]
            if all(_like(value, *kind) for value, kind in zip(found, wanted, strict=True)):
                return begin
        return start
    rest = batch[start:]
    numbers = parameters.least == 1 and len(rest) >= 3 and whole_numbers(rest[0])
    if numbers and isinstance(rest[1], Tensor) and rest[1].dim() > 1 and not integral(rest[1]):
        return start + 1
    return start


def _like(value: Any, dims: int | None, dtype: torch.dtype | None) -> bool:
    """Whether a value could be a converted network's input."""
    if dims is None or dtype is None:
        return not isinstance(value, Tensor)
    images = isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() > 1
    return (
        isinstance(value, Tensor)
        and value.dim() == dims
        and (images or value.is_floating_point() == dtype.is_floating_point)
    )


def _with_optional(
    batch: Sequence[Any], start: int, end: int, parameters: Parameters, notes: list[str]
) -> int:
    """The end of the inputs, those among them that forward could do without."""
    if parameters.by_name or not parameters.names:
        return end
    least = max(parameters.required, 1)
    for place, name in enumerate(parameters.names[least:], least):
        if end >= len(batch) or name not in parameters.optional or is_surely_label(name):
            break
        if not _optional_input(name, batch[start], batch[end], batch[end + 1 :]):
            if isinstance(batch[end], Tensor):
                notes.append(
                    f"the {ordinal(end)} element of a batch follows the inputs: it isn't given to "
                    f"forward's optional {name!r}; where it should be, give "
                    f"(({', '.join(parameters.names[: place + 1])}), label) or a dict with the key "
                    f"{name!r}"
                )
            break
        notes.append(
            f"the {ordinal(end)} element of a batch was read as forward's optional input {name!r}"
        )
        end += 1
    return end


def _optional_input(name: str, x: Tensor, value: Any, later: Sequence[Any]) -> bool:
    """Whether an element is an input that forward could do without, and no label."""
    if not isinstance(value, Tensor) or not value.dim() or not later:
        return False
    if value.shape[0] != x.shape[0] or name.lower() in (*MAYBE_LABELS, *SURELY_LABELS):
        return False
    candidates = [other for other in later if label_like(other, len(value)) or other is None]
    follows = bool(candidates)
    # Class indices with fractions behind them are the label, and those are weights.
    if whole_numbers(value) and not any(map(_no_fractions, candidates)):
        return False
    if "mask" in name.lower():
        fits = value.dim() > 1 and all(n == 1 or n in x.shape[1:] for n in value.shape[1:])
        return fits or (value.dim() == 1 and value.dtype == torch.bool)
    return follows


def _nested(batch: Sequence[Any], parameters: Parameters) -> Given:
    """All inputs in the first element: ``((x, t), label)``, ``([x], {...})``, or single images."""
    inner = list(batch[0])
    if holds_images(inner, batch[1:], parameters):
        notes = ["the images of a batch are a list; they were put together into one tensor"]
        return _labelled(_given((stacked(inner),), parameters, notes=notes), batch, 1)
    kwargs: dict[str, Any] = {}
    behind = 1
    keywords = named_parts(batch[1]) if len(batch) > 1 else None
    if keywords is not None and any(name in parameters.known for name in keywords):
        kwargs = {
            name: value
            for name, value in keywords.items()
            if name in parameters.known and not is_surely_label(name)
        }
        if label_among(keywords, barred=kwargs.__contains__) is None:
            behind = 2
    names = [*parameters.names[: len(inner)]]
    names += [f"input{i}" for i in range(len(names), len(inner))]
    missing = [name for name in parameters.needed if name not in {*names, *kwargs}]
    if missing:
        raise InputError(
            f"a batch gives {listed([*names, *kwargs])}, but not {listed(missing)}; give "
            f"{parameters.form()}"
        )
    return _labelled(Given(tuple(inner), kwargs, None, (*names, *kwargs)), batch, behind)


def _labelled(given: Given, batch: Sequence[Any], start: int) -> Given:
    """The inputs with the label among what follows them in the batch."""
    rest = range(start, len(batch))
    size = next(
        (len(v) for v in (*given.args, *given.kwargs.values()) if is_tensor(v) and v.dim()), 0
    )
    if not rest:
        return given
    likely = [i for i in rest if batch[i] is None or label_like(batch[i], size)]
    whole = [i for i in likely if _no_fractions(batch[i])]
    named = [i for i in rest if named_parts(batch[i]) is None]
    # What is no label at all is one nevertheless where there is nothing else: a measure names it.
    place = next(
        iter([*(whole or likely), *[i for i in named if not is_text(batch[i])], *named]), None
    )
    notes = list(given.notes)
    beside = [ordinal(i) for i in rest if i != place and batch[i] is not None]
    if beside:
        are = "element was" if len(beside) == 1 else "elements were"
        told = "" if place is None else f"the {ordinal(place)} element was read as the label, "
        notes.append(f"of a batch, {told}the {' and '.join(beside)} {are} left out")
    label = None if place is None else batch[place]
    found = [several for i in rest if (several := _several(named_parts(batch[i])))]
    others = found[0] if len(found) == 1 else given.others
    return replace(given, label=label, label_from=place, notes=tuple(notes), others=others)


def _several(named: dict[Any, Any] | None) -> dict[str, Any] | None:
    """The arrays in a dict that isn't the label; None if it holds none."""
    arrays = {n: v for n, v in (named or {}).items() if isinstance(v, Tensor) and v.dim()}
    return arrays or None


def _no_fractions(value: Any) -> bool:
    """Whether a label could be class indices, or is in a form that isn't looked into."""
    fractions = isinstance(value, Tensor) and value.dim() == 1 and value.is_floating_point()
    return not (fractions and bool((value != value.round()).any()))


def _collated(batch: Sequence[Any], parameters: Parameters) -> Given:
    try:
        together = default_collate(list(batch))
    except (TypeError, RuntimeError) as error:
        raise InputError(
            "a batch is a list of single images that can't be put together; resize them to one "
            f"size, as tensors ({str(error).splitlines()[0][:80]})"
        ) from error
    given = read_batch(together, parameters)
    note = "a batch is a list of single images with labels; they were put together"
    return replace(given, notes=(note, *given.notes))
