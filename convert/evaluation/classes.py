"""The measure of networks that predict classes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from .measures import Measure, Outputs, check_alike
from .relative_error import RelativeError
from .rows import ClassMeasures, ClassOriginal, ClassSite, Predicted


class Agreement(Measure):
    """Accuracy, agreement with the reference's classes, and relative error of the logits.

    The logits ``[N, classes, ...]`` are the first output with at least two dimensions. The
    predicted class is that of the largest logit; of a single logit ``[N, 1, ...]`` it is 1 if that
    is above 0, else 0. Where a logit is NaN or the largest is infinite there is no prediction: it
    agrees with nothing and is the class of no label.
    """

    columns: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy",
        "agreement": "agreement",
        "logit_rmse": "logit RMSE",
    }
    error: ClassVar[str] = "logit_rmse"
    drawn: ClassVar[str] = "agreement"
    broken: ClassVar[str] = "without_prediction"
    broken_text: ClassVar[str] = (
        "Images without a prediction (a logit is NaN, or the largest infinite), which count as "
        "no agreement and not correct"
    )

    def __init__(self) -> None:
        self._correct = self._same = self._count = self._count_labelled = self._broken = 0
        self._error = RelativeError()

    @staticmethod
    def logits(outputs: Outputs) -> Tensor:
        """The logits among a network's outputs; InputError if there are none."""
        for output in outputs.values():
            if output.dim() >= 2 and output.numel():
                return output
        raise InputError(
            "the model returns no logits [N, classes]; metric='output' compares what is none"
        )

    @staticmethod
    def labels(label: Any, outputs: Outputs) -> Tensor | None:
        """A batch's label as class indices ``[N, ...]`` on the logits' device.

        Raises:
            InputError: for no array of whole numbers, another shape, or a class that the logits
                don't have.
        """
        if label is None:
            return None
        labels, logits = _whole_numbers(label), Agreement.logits(outputs)
        expected = (logits.shape[0], *logits.shape[2:])
        if labels.shape != expected:
            raise InputError(
                f"labels are {labels.dtype} {tuple(labels.shape)}; outputs {tuple(logits.shape)} "
                f"need class indices {expected}"
            )
        classes = max(logits.shape[1], 2)
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise InputError(
                f"labels go from {int(labels.min())} to {int(labels.max())}, but the network has "
                f"{classes} classes; give the data set that it was trained on"
            )
        return labels.to(logits.device)

    def add(self, found: Outputs, reference: Outputs, labels: Tensor | None) -> None:
        """Adds the outputs of a batch and its class indices ``[N, ...]``."""
        logits, exact = self.logits(found), self.logits(reference)
        check_alike("logits", logits, exact)
        predicted, expected = _predicted(logits), _predicted(exact)
        missing = predicted < 0
        self._same += int(((predicted == expected) & ~missing).sum())
        self._count += predicted.numel()
        self._broken += _rows_with(missing)
        if labels is not None:
            self.labelled += len(labels)
            self._count_labelled += labels.numel()
            self._correct += int((predicted == labels).sum())
        self._error.add(logits, exact)

    @property
    def _accuracy(self) -> float | None:
        return self._correct / self._count_labelled if self._count_labelled else None

    @property
    def _agreement(self) -> float:
        return self._same / self._count

    @property
    def values(self) -> ClassMeasures:
        """Shares of predictions that are the label and the reference's, and the logits' error."""
        return ClassMeasures(
            self._accuracy,
            self._agreement,
            self._error.value,
            without_prediction=self._broken,
        )

    @property
    def raw(self) -> Predicted:
        """The shares alone."""
        return Predicted(self._accuracy, self._agreement, without_prediction=self._broken)

    @property
    def site(self) -> ClassSite:
        """The error and the agreement."""
        return ClassSite(self._error.value, self._agreement, without_prediction=self._broken)

    @property
    def original(self) -> ClassOriginal:
        """The accuracy."""
        return ClassOriginal(self._accuracy, without_prediction=self._broken)


def _whole_numbers(label: Any) -> Tensor:
    """Labels in any array's form as int64; InputError for what is none."""
    remedy = "give class indices, one whole number for each image"
    try:
        labels = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"labels are a {type(label).__name__} that is no array of numbers; {remedy}"
        ) from error
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(f"labels are {labels.dtype} {tuple(labels.shape)}; {remedy}")
    return labels.long()


def _predicted(logits: Tensor) -> Tensor:
    """Predicted classes ``[N, ...]`` of logits ``[N, classes, ...]``; -1 where there is none."""
    single = logits.shape[1] == 1
    predicted = (logits[:, 0] > 0).long() if single else logits.argmax(1)
    return predicted.where(logits.amax(1).isfinite(), -1)


def _rows_with(marked: Tensor) -> int:
    """How many rows of ``[N, ...]`` have a mark anywhere."""
    return int(marked.flatten(1).any(1).sum()) if marked.dim() > 1 else int(marked.sum())
