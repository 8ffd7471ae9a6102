"""Labels in the forms that data sets have them in, as class indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.label_names import label_among, named_parts
from ..errors import InputError

# The label of what counts for no accuracy.
IGNORED = -100
# Values that data sets give to what has no class; the last one in segmentations alone.
_NO_CLASS, _VOID = (-1, -100), 255
_REMEDY = "give class indices, one whole number for each image"


def class_indices(label: Any, logits: Tensor, ignored: int | None = None) -> Tensor | None:
    """A batch's label as class indices ``[N, ...]`` on the logits' device, `IGNORED` where none.

    Args:
        label: class indices as whole numbers of any type, ``[N, ...]`` or ``[N, 1, ...]``; one-hot
            rows ``[N, classes, ...]``; or a dict with one of these. -1 and -100 stand for images
            without a class (of one logit only -100), in a segmentation 255 does too. None for no
            label.
        logits: ``[N, classes, ...]``; of one logit the classes are 0 and 1.
        ignored: another value that stands for no class.

    Raises:
        InputError: for anything else, and for a class that the logits don't have.
    """
    numbers = label_numbers(label)
    if numbers is None:
        return None
    indices = _of_shape(numbers, logits)
    classes = max(logits.shape[1], 2)
    left_out = indices == _NO_CLASS[1]
    if ignored is not None:
        left_out |= indices == ignored
    if logits.shape[1] > 1:
        left_out |= indices == _NO_CLASS[0]
        if logits.dim() > 2 and classes <= _VOID:
            left_out |= indices == _VOID
    wrong = indices[~left_out & ((indices < 0) | (indices >= classes))]
    if wrong.numel():
        known = indices[~left_out]
        hint = " (a label to be ignored is -100 here)" if logits.shape[1] == 1 else ""
        raise InputError(
            f"labels go from {int(known.min())} to {int(known.max())}, but the network has "
            f"{classes} classes{hint}; give the data set that it was trained on"
        )
    return indices.masked_fill(left_out, IGNORED).to(logits.device)


def label_numbers(label: Any) -> Tensor | None:
    """A label in any array's form as a tensor; None for no label.

    Raises:
        InputError: for text, several labels, and what is no array.
    """
    named = named_parts(label)
    if named is not None:
        return label_numbers(_of_dict(named))
    if label is None:
        return None
    text = _text(label)
    if text is not None:
        raise InputError(f"labels are text ({text[:30]!r}, for example); {_REMEDY}")
    if isinstance(label, list | tuple) and label:
        if all(isinstance(part, Tensor | np.ndarray) and part.ndim for part in label):
            if len(label) == 1:
                return label_numbers(label[0])
            if len({tuple(part.shape) for part in label}) > 1 or label[0].ndim == 1:
                raise InputError(
                    f"a batch has {len(label)} labels; this metric is that of one: give (inputs, "
                    "label), or a function of (outputs, targets) as metric="
                )
        if any(named_parts(part) is not None for part in label):
            raise InputError(f"labels are a list of dicts, one for each image; {_REMEDY}")
    try:
        return torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"labels are a {type(label).__name__} that is no array of numbers; {_REMEDY}"
        ) from error


def _of_dict(named: dict[Any, Any]) -> Any:
    """The label in a dict of labels."""
    name = label_among(named)
    if name is None:
        found = ", ".join(str(n)[:30] for n in list(named)[:6])
        raise InputError(
            f"labels are a dict that is no array of numbers (it has {found}); {_REMEDY}, or a dict "
            "with the key 'label'"
        )
    return named[name]


def _text(label: Any) -> str | None:
    """The first text among labels."""
    if isinstance(label, np.ndarray) and label.dtype.kind in "US" and label.size:
        return str(label.flat[0])
    parts = label if isinstance(label, list | tuple) else [label]
    return next((str(part) for part in parts if isinstance(part, str | bytes)), None)


def _of_shape(labels: Tensor, logits: Tensor) -> Tensor:
    """Labels as whole numbers in the shape of the predictions."""
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.is_complex():
        raise InputError(f"labels are {labels.dtype} {tuple(labels.shape)}; {_REMEDY}")
    if labels.shape == logits.shape != expected and logits.shape[1] > 1:
        return _of_one_hot(labels)
    if labels.shape == (logits.shape[0], 1, *logits.shape[2:]) != expected:
        labels = labels.squeeze(1)
    elif labels.shape == (*expected, 1):
        labels = labels.squeeze(-1)
    elif labels.dim() == 0 and expected == (1,):
        labels = labels.reshape(1)
    if tuple(labels.shape) != expected:
        raise InputError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; outputs {tuple(logits.shape)} "
            f"need class indices {expected}{_hint(labels.shape, logits.shape)}"
        )
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        raise InputError(
            f"labels are {labels.dtype} {tuple(labels.shape)} and no whole numbers; {_REMEDY}"
        )
    return labels.long()


def _hint(labels: Sequence[int], logits: Sequence[int]) -> str:
    """What to do where only the classes are in another place than on axis 1."""
    if len(logits) > 2 and tuple(labels) == tuple(logits[:-1]):
        return "; the classes seem to be on the last axis: wrap the model and move them to axis 1"
    return ""


def _of_one_hot(labels: Tensor) -> Tensor:
    """The classes of one-hot rows ``[N, classes, ...]``."""
    binary = bool(((labels == 0) | (labels == 1)).all())
    ones = (labels == 1).sum(1)
    if binary and bool((ones == 1).all()):
        return (labels == 1).long().argmax(1)
    if binary:
        raise InputError(
            f"labels {tuple(labels.shape)} have several classes or none for an image; accuracy is "
            "that of one class: metric='output' compares the outputs without labels"
        )
    raise InputError(
        f"labels are {labels.dtype} {tuple(labels.shape)} and not one-hot; of soft labels give "
        "the classes: labels.argmax(1)"
    )
