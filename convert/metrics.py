"""Running measures of one network's outputs against another's, exact over any batching."""

from __future__ import annotations

import math

from torch import Tensor


class RelativeError:
    """RMS difference over the RMS of the reference around each image's mean over classes."""

    def __init__(self) -> None:
        self._error = self._power = 0.0

    def add(self, found: Tensor, reference: Tensor) -> None:
        """Adds outputs ``[N, classes, ...]``."""
        found, reference = found.double(), reference.double()
        centred = reference - reference.mean(1, keepdim=True)
        self._error += float((found - reference).square().sum())
        self._power += float(centred.square().sum())

    @property
    def value(self) -> float:
        """The relative error; 0 where both are 0."""
        if self._power == 0:
            return 0.0 if self._error == 0 else math.inf
        return math.sqrt(self._error / self._power)


class Agreement:
    """Accuracy, agreement with the reference's classes, and relative error of the outputs."""

    def __init__(self) -> None:
        self._correct = self._same = self._count = 0
        self._labelled = False
        self._error = RelativeError()

    def add(self, found: Tensor, reference: Tensor, labels: Tensor | None) -> None:
        """Adds outputs ``[N, classes, ...]`` and class indices ``[N, ...]``."""
        predicted = found.argmax(1)
        self._same += int((predicted == reference.argmax(1)).sum())
        self._count += predicted.numel()
        if labels is not None:
            self._labelled = True
            self._correct += int((predicted == labels).sum())
        self._error.add(found, reference)

    @property
    def accuracy(self) -> float | None:
        """Share of labels met; None without labels."""
        return self._correct / self._count if self._labelled else None

    @property
    def agreement(self) -> float:
        """Share of predictions that are the reference's."""
        return self._same / self._count

    @property
    def logit_rmse(self) -> float:
        """Relative error of the outputs."""
        return self._error.value
