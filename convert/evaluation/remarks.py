"""What speaks against believing the figures of an evaluation as they stand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..calls.batch_parts import listed
from ..capture.fidelity import ROUNDING, largest_gap
from ..common.device_sums import DeviceSum
from ..network.model import SpikingModel
from .class_labels import IGNORED
from .class_spaces import ClassSpace, class_names
from .classes import Agreement
from .measures import Measure, Outputs

# Two networks whose outputs differ by more of their magnitude aren't one network.
_ANOTHER = 0.05
# Attributes that aren't collected.
_GIVEN = ("_kind", "_names", "_given")


class Counts(NamedTuple):
    """What was counted of some batches, and what spoke against them."""

    images: int
    with_nan: int
    labelled: int
    ignored: int
    three: str
    doubts: list[str]
    classes: ClassSpace | None


class Remarks:
    """Collects doubts batch by batch.

    Args:
        snn: the spiking network.
        model: the original that was given; None for the network's own.
        data: the data source, which may name its classes.
    """

    def __init__(self, snn: SpikingModel, model: torch.nn.Module | None, data: Any) -> None:
        self._given = model is not None
        self._compared = False
        self._names = class_names(data), class_names(snn.metadata) or class_names(model)
        self._classes: ClassSpace | None = None
        self._kind: Measure | None = None
        self._metric = ""
        self._images = self._with_nan = self._labelled = 0
        self._ignored = DeviceSum(0)
        self._three = ""
        self._doubts: list[str] = []

    def begin(self, kind: Measure, why: str, expected: Outputs) -> None:
        """Notes what is measured, before the first batch.

        Args:
            kind: the metric, which notes how it reads its targets.
            why: it was chosen; "" where that is plain.
            expected: the original's outputs of the first batch.
        """
        self._kind = kind
        if isinstance(kind, Agreement):
            self._classes = ClassSpace(*self._names)
        name = kind.measured(expected)
        several = [why] if why else []
        if name is not None and len(expected) > 1:
            several.append(f"of the outputs {listed(expected)}, {name} is measured")
        self._metric = "; ".join(several)

    def add(
        self,
        inputs: Iterable[tuple[Any, int | None]],
        size: int,
        expected: Outputs,
        labels: Any,
    ) -> None:
        """Adds a batch.

        Args:
            inputs: flat, each with the axis of its images, None where it has none.
            size: how many images.
            expected: the original's outputs.
            labels: as the measure takes them.
        """
        self._images += size
        self._with_nan += _images_with_nan(inputs, size)
        if self._classes is None:
            return
        logits = Agreement.logits(expected)
        if logits.dim() == 3:
            self._three = f"[N, {logits.shape[1]}, {logits.shape[2]}]"
        if labels is None:
            return
        self._labelled += size
        self._ignored.add((labels.reshape(len(labels), -1) == IGNORED).all(1).sum())
        self._classes.add(logits, labels)

    def leave_comparison(self) -> None:
        """Leaves the comparison with the original of the conversion to another process."""
        self._compared = True

    def counts(self) -> Counts:
        """What was added, for `join`."""
        return Counts(
            self._images,
            self._with_nan,
            self._labelled,
            int(self._ignored.value),
            self._three,
            self._doubts,
            self._classes,
        )

    def join(self, other: Counts) -> None:
        """Adds what was added in another process."""
        self._images += other.images
        self._with_nan += other.with_nan
        self._labelled += other.labelled
        self._ignored.add(other.ignored)
        self._three = self._three or other.three
        self._doubts += [doubt for doubt in other.doubts if doubt not in self._doubts]
        if self._classes is not None and other.classes is not None:
            self._classes.join(other.classes)

    def compare(self, exact: Callable[[], Outputs], expected: Outputs) -> None:
        """Compares the original that was given with that of the conversion, once.

        Args:
            exact: gives the outputs of the spiking network's own original.
            expected: those of the given one.
        """
        if self._compared or not self._given:
            return
        self._compared = True
        gaps = [
            (largest_gap(a, b), max(_ANOTHER, ROUNDING.get(b.dtype, 0.0)))
            for a, b in zip(expected.values(), exact().values(), strict=False)
            if a.shape == b.shape and a.numel()
        ]
        gap, allowed = max(gaps, default=(0.0, 0.0))
        if gap > allowed:
            self._doubts.append(
                f"the model's outputs differ by {gap:.2g} of their magnitude from those of the "
                "network that was converted (snn.original()): other weights, or another model"
            )

    def state(self) -> dict[str, Any]:
        """What was collected, beside what `begin` was told."""
        return {name: value for name, value in vars(self).items() if name not in _GIVEN}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave."""
        vars(self).update(state)

    def told(self, readings: list[str], of_figures: list[str]) -> tuple[str, ...]:
        """All notes, those on how the batches were read first; the doubts are warned of, too.

        Args:
            readings: how the batches were read.
            of_figures: what should be known of the figures.
        """
        doubts = list(self._doubts)
        if self._with_nan:
            doubts.append(f"{self._with_nan} of {self._images} images hold NaN")
        if self._classes is not None:
            doubts += self._classes.doubts
        notes = [*readings, *([self._metric] if self._metric else [])]
        notes += self._kind.notes() if self._kind is not None else []
        notes += of_figures
        if self._labelled and self._labelled < self._images:
            notes.append(
                f"{self._images - self._labelled} of {self._images} images have no label; the "
                "accuracy is that of the others"
            )
        ignored = self._ignored.value
        if ignored:
            notes.append(
                f"{ignored} images have a label that stands for no class (-1 or -100); they "
                "count for the agreement, not for the accuracy"
            )
        if self._three:
            notes.append(f"the classes are taken to be axis 1 of the outputs {self._three}")
        for doubt in doubts:
            warnings.warn(doubt, stacklevel=4)
        return (*notes, *doubts)


def _images_with_nan(inputs: Iterable[tuple[Any, int | None]], size: int) -> int:
    """Images with NaN in an input."""
    found: set[int] = set()
    for leaf, axis in inputs:
        if axis is not None and isinstance(leaf, Tensor) and leaf.is_floating_point():
            broken = leaf.isnan()
            if bool(broken.any()):
                # An image may have several rows.
                rows = broken.movedim(axis, 0).reshape(size, -1)
                found.update(rows.any(1).nonzero().flatten().tolist())
    return len(found)
