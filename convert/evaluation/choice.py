"""Which metric suits a network where nobody named one: that of classes, or that of any outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..calls.batch_forms import Given
from ..common.label_names import label_among, named_parts
from ..errors import InputError
from .class_labels import IGNORED, label_numbers
from .measures import Outputs, main_output, own_name

# What models call outputs that are vectors for whoever reads them, and no classes.
_VECTORS = ("embed", "hidden", "pool", "feature", "represent", "latent", "vector")


class _Doubt(NamedTuple):
    """Why outputs are taken for no classes, and what to give where that is wrong."""

    why: str
    instead: str = "metric='agreement' for classes"


def suitable(batch: Given, outputs: Outputs) -> tuple[str, str]:
    """The name of the metric for a network, and a note on it where it isn't plain.

    Outputs count as logits of classes if nothing speaks against it: ``[N, classes]`` without
    labels, or with labels that are classes of images or positions. Labels that are classes of
    another number than the network's are left for the metric to refuse.

    Args:
        batch: the first one, as it was read.
        outputs: the original's, images first.
    """
    doubt = _doubt(batch, outputs)
    if doubt is None:
        return "agreement", _taken(batch, outputs)
    unread = "" if batch.label is None else ", and the labels aren't looked at"
    return "output", (
        f"{doubt.why}: the relative error of the outputs is measured (metric='output'){unread}; "
        f"give {doubt.instead}"
    )


def _taken(batch: Given, outputs: Outputs) -> str:
    """What is said of outputs that nothing but their shape makes classes."""
    name = main_output(outputs, lambda output: output.dim() >= 2)
    if name is None or batch.label is not None or own_name(name) == "logits":
        return ""
    count = outputs[name].shape[1]
    return (
        f"without labels the outputs [N, {count}] are taken to be logits of {count} classes; "
        "metric='output' compares outputs that are none"
    )


def _doubt(batch: Given, outputs: Outputs) -> _Doubt | None:
    name = main_output(outputs, lambda output: output.dim() >= 2)
    if name is None:
        return _Doubt("the outputs are one number for each image")
    logits = outputs[name]
    found = _by_outputs(own_name(name), logits)
    if found is not None:
        return found
    if batch.label is None:
        return _without_label(batch, own_name(name), logits)
    return _by_label(batch.label, logits)


def _by_outputs(named: str, logits: Tensor) -> _Doubt | None:
    """What in the outputs themselves speaks against classes."""
    if any(part in named.lower() for part in _VECTORS):
        return _Doubt(f"the output is called {named!r}")
    # One vector may have that length by chance.
    if logits.dim() == 2 and min(logits.shape) > 1 and bool((logits < 0).any()):
        norms = logits.double().square().sum(1).sqrt()
        if bool(((norms - 1).abs() < 1e-3).all()):
            return _Doubt("the outputs have length 1, as embeddings have")
    return None


def _without_label(batch: Given, named: str, logits: Tensor) -> _Doubt | None:
    """What speaks against classes where there are no labels."""
    shape = f"[{', '.join(['N', *map(str, logits.shape[1:])])}]"
    if logits.dim() > 2:
        return _Doubt(
            f"the outputs {shape} come without labels",
            "metric='agreement' for classes on axis 1, metric='perplexity' for a language model",
        )
    if logits.shape[1] == 1:
        return _Doubt("the outputs are one number for each image, without labels")
    inputs = [x for x in (*batch.args, *batch.kwargs.values()) if isinstance(x, Tensor)]
    texts = bool(inputs) and inputs[0].dtype in (torch.int64, torch.int32)
    if texts and named != "logits":
        return _Doubt(f"the outputs {shape} of texts come without labels")
    return None


def _by_label(label: Any, logits: Tensor) -> _Doubt | None:
    """What in the labels speaks against classes; None where they are classes, or wrong ones."""
    several = _several(label)
    if several:
        return _Doubt(several, "one label, or a function of (outputs, targets) as metric=")
    try:
        numbers = label_numbers(label)
    except InputError:
        plain = logits.dim() == 2 and logits.shape[1] > 1
        return None if plain else _Doubt("the labels are no numbers", "labels that are")
    if numbers is None or numbers.is_complex():
        return None
    values = numbers.double()
    if numbers.shape == logits.shape and logits.shape[1] > 1:
        return _of_equal_shape(values)
    if not bool((values == values.round()).all()):
        return _Doubt("the labels are no whole numbers", "class indices for an accuracy")
    if logits.shape[1] == 1:
        binary = (values == 0) | (values == 1) | (values == IGNORED)
        if not bool(binary.all()):
            return _Doubt("the outputs are one number, and the labels aren't 0 and 1")
    return None if logits.dim() == 2 else _of_positions(numbers.shape, logits.shape)


def _of_positions(labels: torch.Size, logits: torch.Size) -> _Doubt | None:
    """Whether labels belong to the positions of outputs ``[N, classes, ...]``."""
    if len(logits) == 3 and labels[:2] == logits[:2]:
        return _Doubt(
            "the labels belong to axis 1 of the outputs [N, T, C]",
            "metric='perplexity' for a language model",
        )
    count, positions = logits[:1], logits[2:]
    if labels in ((*count, *positions), (*count, 1, *positions), (*count, *positions, 1)):
        return None
    return _Doubt(
        f"the labels are {tuple(labels)}, the outputs {tuple(logits)}",
        "metric='iou' for a segmentation of lower resolution",
    )


def _of_equal_shape(values: Tensor) -> _Doubt | None:
    """What labels of the outputs' shape are, if neither one-hot nor soft."""
    if bool(((values == 0) | (values == 1)).all()):
        if bool((values.sum(1) == 1).all()):
            return None
        return _Doubt(
            "the labels have several classes, or none, for an image",
            "a metric of torchmetrics for several labels",
        )
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-4).all()):
        return None
    return _Doubt("the labels are values as the outputs", "class indices for an accuracy")


def _several(label: Any) -> str:
    """Which form of several targets a label has; "" for one."""
    named = named_parts(label)
    if named is not None:
        return "" if label_among(named) is not None else "the labels are a dict of several"
    if isinstance(label, list | tuple) and label:
        if named_parts(label[0]) is not None:
            return "the labels are a list of dicts"
        if len(label) > 1 and all(isinstance(part, Tensor) and part.dim() for part in label):
            return f"a batch has {len(label)} labels"
    return ""
