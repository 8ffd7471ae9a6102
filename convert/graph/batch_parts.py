"""What the parts of a batch look like: text, labels, single images, inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from ..common.label_names import label_among, named_parts
from ..errors import InputError
from .forward_parameters import Parameters

_ORDINALS = ("first", "second", "third", "fourth", "fifth")


def with_tensors(value: Any) -> Any:
    """The same with tensors for numpy's arrays of numbers, in plain tuples, lists and dicts."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        native = value.astype(value.dtype.newbyteorder("="), copy=not value.flags.writeable)
        return torch.from_numpy(np.array(native, order="C", copy=None))
    if type(value) in (list, tuple):
        return type(value)(map(with_tensors, value))
    if type(value) is dict:
        return {key: with_tensors(inner) for key, inner in value.items()}
    return value


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor."""
    return isinstance(value, Tensor)


def integral(x: Tensor) -> bool:
    """Whether a tensor holds whole numbers, and is no image."""
    return not x.is_floating_point() and x.dtype != torch.uint8


def whole_numbers(value: Any) -> bool:
    """Whether a value is a list of whole numbers."""
    if isinstance(value, Tensor):
        return value.dim() == 1 and integral(value) and value.dtype != torch.bool
    return isinstance(value, list | tuple) and bool(value) and all(type(v) is int for v in value)


def is_text(value: Any) -> bool:
    """Whether a value is text, or a list of it."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(inner, str) for inner in value)
    return isinstance(value, str | bytes)


def kind_of(value: Any) -> str:
    """What a value is, for messages."""
    if isinstance(value, list | tuple) and value:
        return f"{type(value).__name__} of {type(value[0]).__name__}"
    picture = type(value).__module__.startswith("PIL.")
    return "PIL image (make tensors of images: ToTensor())" if picture else type(value).__name__


def listed(names: Any) -> str:
    """A few names, and how many more there are."""
    told = [str(name)[:40] for name in names]
    more = f" and {len(told) - 6} more" if len(told) > 6 else ""
    return ", ".join(told[:6]) + more


def ordinal(place: int) -> str:
    """A place, counted from 0, in words."""
    return _ORDINALS[place] if place < len(_ORDINALS) else f"{place + 1}th"


def label_like(value: Any, size: int) -> bool:
    """Whether a value could be labels of so many images."""
    if isinstance(value, Tensor):
        return value.shape[:1] == (size,) or not value.dim()
    if isinstance(value, list | tuple):
        return 0 < len(value) == size and not is_text(value) and named_parts(value[0]) is None
    named = named_parts(value)
    return named is not None and label_among(named) is not None


def are_samples(batch: Sequence[Any]) -> bool:
    """Whether a batch is a list of what a data set gives for one image."""
    if not isinstance(batch, list) or not batch:
        return False
    first = batch[0]
    if isinstance(first, tuple) and len(first) > 1:
        alike = all(isinstance(s, tuple) and len(s) == len(first) for s in batch)
        return alike and is_tensor(first[0]) and all(_of_one_image(s[-1]) for s in batch)
    named = named_parts(first)
    return named is not None and all(
        named_parts(s) is not None and (key := label_among(s)) is not None and _of_one_image(s[key])
        for s in batch
    )


def _of_one_image(label: Any) -> bool:
    """Whether a label is that of one image."""
    return isinstance(label, int | np.integer | str) or (
        isinstance(label, Tensor | np.ndarray) and label.ndim == 0
    )


def are_single_images(batch: Sequence[Any], parameters: Parameters) -> bool:
    """Whether a list holds single images, rather than images and what follows them."""
    if not isinstance(batch, list) or not all(map(is_tensor, batch)) or parameters.least > 1:
        return False
    dims = {x.dim() for x in batch}
    if parameters.dims:
        # With a shape of their own, or what follows could be labels of the first.
        alone = len(batch) == 1 or batch[1].shape == batch[0].shape
        return dims == {(parameters.dims[0] or 0) - 1} and alone
    if len(batch) < 3 or len(dims) > 1 or any(integral(x) for x in batch):
        return False
    if dims == {3} and all(x.shape[0] in (1, 3, 4) for x in batch):
        return True
    if dims == {1} and len({x.shape for x in batch}) == 1 and len(batch) > 3:
        raise InputError(
            f"a batch is a list of {len(batch)} tensors {[*batch[0].shape]}; give one tensor by "
            f"torch.stack(batch), or {parameters.form()}"
        )
    return False


def holds_images(inner: list[Any], rest: Sequence[Any], parameters: Parameters) -> bool:
    """Whether the first element of a batch is a list of images and not of inputs."""
    if not all(map(is_tensor, inner)) or parameters.least > 1 or len({x.dim() for x in inner}) > 1:
        return False
    if parameters.dims and parameters.dims[0] is not None:
        return inner[0].dim() == parameters.dims[0] - 1
    if len(inner) > max(len(parameters.names), 1) and not parameters.more:
        return True
    counted = any(label_like(v, len(inner)) for v in rest)
    return counted and inner[0].dim() == 3 and inner[0].shape[0] in (1, 3, 4)


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Images of one size as one tensor; InputError for images of several."""
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise InputError(
            f"a batch holds single images of several sizes ({listed(shapes)}); resize them to one"
        )
    return torch.stack(list(images))
