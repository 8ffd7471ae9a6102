"""The measure of networks that predict classes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from ..common.device_sums import DeviceSum
from ..errors import InputError
from .class_labels import IGNORED, class_indices
from .measures import Joined, Measure, Outputs, check_alike, main_output
from .relative_error import RelativeError
from .rows import ClassMeasures, ClassOriginal, ClassSite, Predicted


class Agreement(Joined):
    """Accuracy, agreement with the reference's classes, and relative error of the logits.

    The logits ``[N, classes, ...]`` are the output called logits or out, else the first with at
    least two dimensions. The predicted class is that of the largest logit; of a single logit
    ``[N, 1, ...]`` it is 1 if that is above 0, else 0. Where a logit is NaN or the largest is
    infinite there is no prediction: it agrees with nothing and is the class of no label.
    """

    columns: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy",
        "agreement": "agreement",
        "logit_rmse": "logit RMSE",
    }
    error: ClassVar[str] = "logit_rmse"
    drawn: ClassVar[str] = "agreement"
    own: ClassVar[tuple[str, ...]] = ("accuracy",)
    shares: ClassVar[frozenset[str]] = frozenset({"accuracy", "agreement"})
    better: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"accuracy": "higher", "agreement": "higher", "logit_rmse": "lower"}
    )
    broken: ClassVar[str] = "without_prediction"
    broken_text: ClassVar[str] = (
        "Images without a prediction (a logit is NaN, or the largest infinite), which count as "
        "no agreement and not correct"
    )

    def __init__(self) -> None:
        self._count = 0
        # They stay on a GPU until they are read.
        self._correct, self._same, self._known = DeviceSum(0), DeviceSum(0), DeviceSum(0)
        self._broken, self._images = DeviceSum(0), DeviceSum(0)
        self._error = RelativeError()

    @property
    def labelled(self) -> int:  # type: ignore[override]
        """Images that came with labels."""
        return int(self._images.value)

    @staticmethod
    def logits(outputs: Outputs) -> Tensor:
        """The logits among a network's outputs; InputError if there are none."""
        return outputs[logits_name(outputs)]

    def measured(self, outputs: Outputs) -> str | None:
        """The name of the logits."""
        return logits_name(outputs)

    @staticmethod
    def labels(label: Any, outputs: Outputs) -> Tensor | None:
        """A batch's label as class indices ``[N, ...]`` on the logits' device.

        `IGNORED` stands where there is none; see `class_indices`.

        Raises:
            InputError: for no array of whole numbers, another shape, or a class that the logits
                don't have.
        """
        return None if label is None else class_indices(label, Agreement.logits(outputs))

    def add(self, found: Outputs, reference: Outputs, labels: Tensor | None) -> None:
        """Adds the outputs of a batch and its class indices ``[N, ...]``."""
        logits, exact = self.logits(found), self.logits(reference)
        check_alike("logits", logits, exact)
        predicted, expected = predicted_classes(logits), predicted_classes(exact)
        missing = predicted < 0
        self._same.add(((predicted == expected) & ~missing).sum())
        self._count += predicted.numel()
        self._broken.add(_rows_with(missing))
        if labels is not None:
            known = labels != IGNORED
            self._images.add(_rows_with(known))
            self._known.add(known.sum())
            self._correct.add((predicted == labels).sum())
        self._error.add(logits, exact)

    def small(self, outputs: Outputs) -> bool:
        """Whether there are two classes or more."""
        return self.logits(outputs).shape[1] != 1

    def join(self, other: Measure) -> None:
        """Adds a batch that was added to another."""
        assert isinstance(other, Agreement)
        self._count += other._count
        self._same.join(other._same)
        self._broken.join(other._broken)
        self._images.join(other._images)
        self._known.join(other._known)
        self._correct.join(other._correct)
        self._error.join(other._error)

    @property
    def _accuracy(self) -> float | None:
        return self._correct.value / self._known.value if self._known.value else None

    @property
    def _agreement(self) -> float:
        return self._same.value / self._count

    @property
    def values(self) -> ClassMeasures:
        """Shares of predictions that are the label and the reference's, and the logits' error."""
        return ClassMeasures(
            self._accuracy,
            self._agreement,
            self._error.value,
            without_prediction=int(self._broken.value),
        )

    @property
    def raw(self) -> Predicted:
        """The shares alone."""
        return Predicted(
            self._accuracy, self._agreement, without_prediction=int(self._broken.value)
        )

    @property
    def site(self) -> ClassSite:
        """The error and the agreement."""
        return ClassSite(
            self._error.value, self._agreement, without_prediction=int(self._broken.value)
        )

    @property
    def original(self) -> ClassOriginal:
        """The accuracy."""
        return ClassOriginal(self._accuracy, without_prediction=int(self._broken.value))


class Accuracy(Agreement):
    """The same where accuracy is asked for: every batch must have labels."""

    needs_labels = True

    def check(self) -> None:
        """Refuses labels that all stand for no class."""
        if self._accuracy is None:
            raise InputError(
                "no image has a label that is a class (-1 and -100 stand for none), and "
                "metric='accuracy' needs them; metric='agreement' compares the predictions alone"
            )


def logits_name(outputs: Outputs) -> str:
    """The name of the logits among a network's outputs; InputError if there are none."""
    name = main_output(outputs, lambda output: output.dim() >= 2)
    if name is None:
        raise InputError(
            "the model returns no logits [N, classes]; metric='output' compares what is none"
        )
    return name


def predicted_classes(logits: Tensor) -> Tensor:
    """Predicted classes ``[N, ...]`` of logits ``[N, classes, ...]``; -1 where there is none."""
    single = logits.shape[1] == 1
    predicted = (logits[:, 0] > 0).long() if single else logits.argmax(1)
    return predicted.where(logits.amax(1).isfinite(), -1)


def _rows_with(marked: Tensor) -> Tensor:
    """How many rows of ``[N, ...]`` have a mark anywhere."""
    return marked.flatten(1).any(1).sum() if marked.dim() > 1 else marked.sum()
