"""The measure of segmentations: intersection over union, mean of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .class_labels import IGNORED, class_indices, label_numbers
from .classes import predicted_classes
from .measures import Joined, Measure, Outputs, check_alike, main_output
from .relative_error import RelativeError
from .rows import OverlapMeasures, OverlapOriginal


class IoU(Joined):
    """Intersection over union of predicted and labelled regions, over the pixels of all images.

    The logits ``[N, classes, H, W]`` are the output called out or logits, else the first of four
    dimensions; a single logit stands for the classes 0 and 1. Logits of a lower resolution than
    the labels are enlarged to theirs (bilinear, corners not aligned). The mean is that over the
    classes that occur in labels or predictions.

    Args:
        ignore: label of the pixels that don't count, beside -1 and -100; None for 255 where the
            network has at most 255 classes.

    Raises:
        InputError: for a label that is no whole number.
    """

    columns: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "iou": "mean IoU",
            "accuracy": "pixel accuracy",
            "agreement": "agreement",
            "logit_rmse": "logit RMSE",
        }
    )
    error: ClassVar[str] = "logit_rmse"
    drawn: ClassVar[str] = "agreement"
    own: ClassVar[tuple[str, ...]] = ("iou", "accuracy")
    shares: ClassVar[frozenset[str]] = frozenset({"iou", "accuracy", "agreement"})
    better: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"iou": "higher", "accuracy": "higher", "agreement": "higher", "logit_rmse": "lower"}
    )
    broken: ClassVar[str] = "without_prediction"
    broken_text: ClassVar[str] = (
        "Images with pixels without a prediction (a logit is NaN, or the largest infinite), which "
        "belong to no class"
    )
    needs_labels = True

    def __init__(self, *, ignore: int | None = None) -> None:
        if ignore is not None and (isinstance(ignore, bool) or not isinstance(ignore, Integral)):
            raise InputError(f"ignore= must be a whole number or None, found {ignore!r}")
        self._ignore = None if ignore is None else int(ignore)
        self._resized = ""
        self._same = self._broken = 0
        # Pixels by label and predicted class ``[classes, classes + 1]``, no prediction last.
        self._pixels: Tensor | None = None
        self._error = RelativeError()

    def start(self) -> Measure:
        """A measure with the same label to be ignored."""
        return IoU(ignore=self._ignore)

    def measured(self, outputs: Outputs) -> str:
        """The name of the logits; InputError if there are none."""
        name = main_output(outputs, lambda output: output.dim() == 4)
        if name is None:
            shapes = ", ".join(str([*output.shape]) for output in outputs.values())
            raise InputError(
                f"metric='iou' needs logits [N, classes, H, W], the model returns {shapes}; "
                "metric='output' compares what is none"
            )
        return name

    def labels(self, label: Any, outputs: Outputs) -> Tensor | None:
        """Class indices ``[N, H, W]``, `IGNORED` where none; see `class_indices`.

        Raises:
            InputError: for what `class_indices` refuses, and labels of a lower resolution, or
                another aspect, than the logits.
        """
        logits = outputs[self.measured(outputs)]
        numbers = label_numbers(label)
        if numbers is None:
            return None
        size = numbers.shape[-2:] if numbers.dim() in (3, 4) else logits.shape[2:]
        (high, wide), (h, w) = size, logits.shape[2:]
        if (high, wide) != (h, w):
            # Networks round the size of a part up or down.
            if h > high or w > wide or abs(h * wide / high - w) >= 1:
                raise InputError(
                    f"labels are {tuple(numbers.shape)}, the outputs {tuple(logits.shape)}; give "
                    "labels [N, H, W] of the outputs' size, or larger in the same proportion"
                )
            self._resized = f"the outputs {h} x {w} were enlarged to the labels' {high} x {wide}"
        like = logits[:, :, :1, :1].expand(*logits.shape[:2], high, wide)
        return class_indices(numbers, like, self._ignore)

    def add(self, found: Outputs, reference: Outputs, labels: Tensor | None) -> None:
        """Adds a batch and its class indices ``[N, H, W]``."""
        logits, exact = found[self.measured(found)], reference[self.measured(reference)]
        check_alike("logits", logits, exact)
        self._error.add(logits, exact)
        if labels is None:
            labels = predicted_classes(exact)
        known = labels != IGNORED
        self.labelled += int(known.flatten(1).any(1).sum())
        predicted, expected = _classes(logits, labels), _classes(exact, labels)
        missing = predicted < 0
        self._same += int(((predicted == expected) & ~missing & known).sum())
        self._broken += int((missing & known).flatten(1).any(1).sum())
        count = max(logits.shape[1], 2)
        places = labels * (count + 1) + predicted.where(~missing, count)
        counted = places[known].bincount(minlength=count * (count + 1)).view(count, count + 1)
        self._pixels = counted if self._pixels is None else self._pixels + counted

    def small(self, outputs: Outputs) -> bool:
        """Whether there are two classes or more."""
        return outputs[self.measured(outputs)].shape[1] != 1

    def join(self, other: Measure) -> None:
        """Adds a batch that was added to another, or how it read its labels."""
        assert isinstance(other, IoU)
        self._error.join(other._error)
        self._same += other._same
        self._broken += other._broken
        self.labelled += other.labelled
        self._resized = other._resized or self._resized
        if other._pixels is not None:
            self._pixels = other._pixels + (0 if self._pixels is None else self._pixels)

    def check(self) -> None:
        """Refuses labels that all stand for no class."""
        if self._iou is None:
            raise InputError(
                "no pixel has a label that is a class, and metric='iou' needs them; ignored are "
                f"-1, -100 and {255 if self._ignore is None else self._ignore}"
            )

    def notes(self) -> list[str]:
        """Whether the outputs were resized."""
        return [self._resized] if self._resized else []

    @property
    def _by_class(self) -> tuple[float | None, ...]:
        if self._pixels is None:
            return ()
        right = self._pixels.diagonal()
        either = self._pixels.sum(1) + self._pixels[:, :-1].sum(0) - right
        pairs = zip(right.tolist(), either.tolist(), strict=True)
        return tuple(r / e if e else None for r, e in pairs)

    @property
    def _iou(self) -> float | None:
        known = [share for share in self._by_class if share is not None]
        return sum(known) / len(known) if known else None

    def _share(self, count: int) -> float | None:
        pixels = 0 if self._pixels is None else int(self._pixels.sum())
        return count / pixels if pixels else None

    @property
    def values(self) -> OverlapMeasures:
        """Overlap, pixel accuracy, agreement, and the logits' error."""
        return OverlapMeasures(
            self._iou,
            self._accuracy,
            self._by_class,
            self._share(self._same),
            self._error.value,
            without_prediction=self._broken,
        )

    @property
    def _accuracy(self) -> float | None:
        return None if self._pixels is None else self._share(int(self._pixels.diagonal().sum()))

    @property
    def raw(self) -> OverlapMeasures:
        """The same as `values`."""
        return self.values

    @property
    def site(self) -> OverlapMeasures:
        """The same as `values`."""
        return self.values

    @property
    def original(self) -> OverlapOriginal:
        """Its overlap and pixel accuracy."""
        return OverlapOriginal(
            self._iou, self._accuracy, self._by_class, without_prediction=self._broken
        )


def _classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Predicted classes ``[N, H, W]`` in the size of the labels; -1 where there is none."""
    if logits.shape[2:] == labels.shape[1:]:
        return predicted_classes(logits)
    # Weights of 0 beside infinity give NaN, which is no prediction.
    enlarged = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear")
    return predicted_classes(enlarged)
