"""Names under which data sets keep labels and inputs, and what holds several things by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Nobody calls an input so: a parameter of this name takes the label, to compute a loss.
SURELY_LABELS = (
    "labels",
    "label",
    "targets",
    "target",
    "label_ids",
    "class_labels",
    "class_label",
    "ground_truth",
    "gt",
    "fine_label",
)
# Inputs of some networks are called so, too.
MAYBE_LABELS = ("y", "class", "classes", "cls", "class_id", "category", "annotation", "annotations")
# A segmentation data set's labels, where nothing else could be the label.
DENSE_LABELS = ("mask", "masks", "segmentation", "seg", "semantic")
# What data sets call the input of a network that has one.
INPUTS = (
    "input",
    "inputs",
    "x",
    "image",
    "images",
    "img",
    "imgs",
    "pixel_values",
    "data",
    "input_ids",
    "input_values",
    "input_features",
    "features",
    "feature",
    "audio",
    "signal",
    "samples",
    "sample",
)


def named_parts(value: Any) -> dict[str, Any] | None:
    """What a dict, a look-alike, a dataclass or a named tuple holds by name; None for the rest."""
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__"):
        return {key: value[key] for key in value.keys()}  # noqa: SIM118
    return None


def label_among(
    names: Iterable[Any], *, barred: Callable[[str], bool] = lambda name: False
) -> Any | None:
    """The name of the label among others, whatever its case; None if there is none.

    Args:
        names: keys of a dict.
        barred: names that are no labels here.
    """
    lower = {name.lower(): name for name in names if isinstance(name, str)}
    for known in (*SURELY_LABELS, *MAYBE_LABELS):
        if known in lower and not barred(lower[known]):
            return lower[known]
    return None


def is_surely_label(name: str) -> bool:
    """Whether a parameter of forward takes the label."""
    return name.lower() in SURELY_LABELS
