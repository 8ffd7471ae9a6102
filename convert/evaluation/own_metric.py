"""What metrics of a user's own have in common: their targets, their figures, the outputs' error."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..calls.batch_forms import Given
from ..errors import InputError
from .measures import Measure, Outputs, Shown, result_of
from .output_error import OutputError
from .rows import OwnMeasures, OwnOriginal

# Keys of the rows into which the figures go.
TAKEN = {
    "step", "steps", "raw", "measures", "relative_error", "without_value", "spikes_per_neuron",
    "spikes_per_image", "spike_driven", "latency_steps", "neurons", "without_encoding", "name",
    "spike_cost", "gates", "dominated", "figures",
}  # fmt: skip


@dataclass(frozen=True)
class Targets:
    """What a batch is measured against.

    Args:
        label: as the data has it, on the outputs' device; None without one.
        images: how many the batch has.
    """

    label: Any
    images: int


class OwnMetric(Measure):
    """A metric that the package doesn't know, beside the relative error of the outputs.

    It is given whole batches: outputs as the model returns them, and labels as the data has them.
    """

    elements: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    def __init__(self) -> None:
        self._outputs = OutputError()
        self._alike = True
        self._broken = 0
        self._batches = 0

    @abstractmethod
    def __str__(self) -> str:
        """What it is called."""

    @property
    def higher_is_better(self) -> bool | None:
        """Whether higher figures are better; None if nobody says."""
        return None

    @property
    @abstractmethod
    def figures(self) -> Mapping[str, float | None]:
        """The figures by name."""

    @abstractmethod
    def update(self, found: Outputs, targets: Targets, *, original: bool) -> None:
        """Adds a batch to the figures.

        Args:
            found: outputs of the network.
            targets: what they are measured against.
            original: whether the network is the original.
        """

    def labels(self, label: Any, outputs: Outputs) -> Targets:
        """The label as it is, of as many images as the first output has."""
        return self._of(label, outputs, len(next(iter(outputs.values()))))

    def given(self, batch: Given) -> Any:
        """The label, or a dict of several targets where nothing is the label."""
        return batch.targets

    def targets(self, batch: Given, outputs: Outputs, size: int) -> Targets:
        """What is given, as it is."""
        return self._of(batch.targets, outputs, size)

    def _of(self, label: Any, outputs: Outputs, size: int) -> Targets:
        device = next(iter(outputs.values())).device
        return Targets(pytree.tree_map_only(Tensor, lambda leaf: leaf.to(device), label), size)

    def add(self, found: Outputs, reference: Outputs, labels: Targets) -> None:
        """Adds a batch."""
        self._batches += 1
        if labels.label is not None:
            self.labelled += labels.images
        pairs = zip(found.values(), reference.values(), strict=False)
        self._alike &= len(found) == len(reference) and all(a.shape == b.shape for a, b in pairs)
        if self._alike:
            self._outputs.add(found, reference, None)
        before = _versions(found, labels)
        self.update(found, labels, original=found is reference)
        if _versions(found, labels) != before:
            raise InputError(
                f"metric '{self}' changes its outputs or targets in place; give one that works on "
                "copies: outputs.clone()"
            )

    def shown(self) -> Shown:
        """The figures under their names, and the outputs' error."""
        names = tuple(self.figures)
        better = self.higher_is_better
        said = {} if better is None else dict.fromkeys(names, "higher" if better else "lower")
        return Shown(
            columns={**{name: name for name in names}, "relative_error": "relative error"},
            error="relative_error",
            drawn="relative_error",
            broken="without_value",
            broken_text="Batches, or figures, without a value (NaN or infinity)",
            own=names,
            better={**said, "relative_error": "lower"},
        )

    def remarks(self) -> list[str]:
        """Whether the outputs could be compared."""
        if self._alike:
            return []
        return ["the outputs of both networks have other shapes: they have no relative error"]

    @property
    def values(self) -> OwnMeasures:
        """The figures, and the outputs' error."""
        error = self._outputs.values.relative_error if self._alike else None
        return OwnMeasures(self.figures, error, without_value=self._broken)

    @property
    def raw(self) -> OwnMeasures:
        """The same as `values`."""
        return self.values

    @property
    def site(self) -> OwnMeasures:
        """The same as `values`."""
        return self.values

    @property
    def original(self) -> OwnOriginal:
        """The figures."""
        return OwnOriginal(self.figures, without_value=self._broken)


def _versions(found: Outputs, targets: Targets) -> list[int]:
    """How often each tensor was changed in place, where torch counts that."""
    leaves = pytree.tree_leaves((result_of(found), targets.label))
    return [x._version for x in leaves if isinstance(x, Tensor) and not x.is_inference()]


def check_names(metric: object, names: Mapping[Any, Any]) -> None:
    """Refuses names of figures that are no text, or keys of the report's rows."""
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"metric '{metric}' returns a dict with the key {name!r}; give text")
        if name in TAKEN or name.startswith("accumulated_"):
            raise InputError(
                f"metric '{metric}' calls a figure {name!r}, which the report's rows have already; "
                "give it another name"
            )


def number_of(value: Any) -> float | None:
    """A number of any kind as a float, NaN and infinity too; None for what is no one number."""
    if isinstance(value, Tensor | np.ndarray):
        whole = value.size if isinstance(value, np.ndarray) else value.numel()
        complex_ = torch.is_complex(value) if isinstance(value, Tensor) else value.dtype.kind == "c"
        numbers = isinstance(value, Tensor) or value.dtype.kind in "biuf"
        return float(value.item()) if whole == 1 and numbers and not complex_ else None
    return float(value) if isinstance(value, Real | np.bool_) else None


def finite(value: float) -> float | None:
    """The number; None for NaN and infinity."""
    return value if math.isfinite(value) else None


def kind_of(value: Any) -> str:
    """What a value is, for messages."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)}"
    return "None" if value is None else f"{type(value).__name__} ({str(value)[:30]!r})"


def refused(metric: object, error: Exception, outputs: Any, targets: Targets) -> InputError:
    """What is said where a metric raises: its own words, and what it was given."""
    lines = str(error).strip().splitlines()
    why = lines[0][:200] if lines else type(error).__name__
    label = "missing: the data has no labels" if targets.label is None else form_of(targets.label)
    return InputError(
        f"metric '{metric}' fails on outputs {form_of(outputs)} and targets {label}: {why}"
    )


def form_of(value: Any) -> str:
    """Types and shapes of a tree, shortened."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {[*value.shape]}"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}: {form_of(part)}" for key, part in list(value.items())[:4])
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        more = ", ..." if len(value) > 3 else ""
        return f"({', '.join(map(form_of, value[:3]))}{more})"
    return type(value).__name__
