"""Running measures of one network's outputs against another's, exact over any batching.

A network's outputs come as floating-point tensors by name, in the order in which it returns them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import InputError

Outputs = Mapping[str, Tensor]


def outputs_of(result: Any) -> dict[str, Tensor]:
    """The floating-point tensors of what a network returned: ``output``, ``output['mask']``.

    Raises:
        InputError: if there is none.
    """
    leaves, _ = pytree.tree_flatten_with_path(result)
    found = {
        f"output{pytree.keystr(path)}": leaf
        for path, leaf in leaves
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }
    if not found:
        raise InputError("the model returns no floating-point tensor; there is nothing to compare")
    return found


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
    """Accuracy, agreement with the reference's classes, and relative error of the logits.

    The logits ``[N, classes, ...]`` are the first output with at least two dimensions.
    """

    # What `values` holds, with headings; what of it an anytime readout without correction and the
    # table by site show; and what counts as a site's error.
    columns: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy",
        "agreement": "agreement",
        "logit_rmse": "logit RMSE",
    }
    raw: ClassVar[tuple[str, ...]] = ("accuracy", "agreement")
    by_site: ClassVar[tuple[str, ...]] = ("logit_rmse", "agreement")
    error: ClassVar[str] = "logit_rmse"
    drawn: ClassVar[str] = "agreement"

    def __init__(self) -> None:
        self._correct = self._same = self._count = 0
        self._labelled = False
        self._error = RelativeError()

    @staticmethod
    def logits(outputs: Outputs) -> Tensor:
        """The logits among a network's outputs; InputError if there are none."""
        for output in outputs.values():
            if output.dim() >= 2:
                return output
        raise InputError(
            "the model returns no logits [N, classes]; metric='output' compares what is none"
        )

    @classmethod
    def labels(cls, label: Any, outputs: Outputs) -> Tensor | None:
        """A batch's label as class indices ``[N, ...]`` on the logits' device.

        Raises:
            InputError: for another shape or a class that the logits don't have.
        """
        if label is None:
            return None
        labels, logits = torch.as_tensor(label), cls.logits(outputs)
        expected = (logits.shape[0], *logits.shape[2:])
        if labels.shape != expected or labels.is_floating_point():
            raise InputError(
                f"labels are {labels.dtype} {tuple(labels.shape)}; outputs {tuple(logits.shape)} "
                f"need class indices {expected}"
            )
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
            raise InputError(
                f"labels go from {int(labels.min())} to {int(labels.max())}, but the network has "
                f"{logits.shape[1]} classes; give the data set that it was trained on"
            )
        return labels.to(logits.device)

    def add(self, found: Outputs, reference: Outputs, labels: Tensor | None) -> None:
        """Adds the outputs of a batch and its class indices ``[N, ...]``."""
        logits, exact = self.logits(found), self.logits(reference)
        predicted = logits.argmax(1)
        self._same += int((predicted == exact.argmax(1)).sum())
        self._count += predicted.numel()
        if labels is not None:
            self._labelled = True
            self._correct += int((predicted == labels).sum())
        self._error.add(logits, exact)

    @property
    def values(self) -> dict[str, Any]:
        """Shares of predictions that are the label (None without labels) and the reference's."""
        return {
            "accuracy": self._correct / self._count if self._labelled else None,
            "agreement": self._same / self._count,
            "logit_rmse": self._error.value,
        }


class OutputError:
    """Relative error of outputs that are no classes; labels are not looked at.

    Of one output it is the root of ``sum (found - reference)^2 / sum (reference - mean)^2``, both
    sums over all images and elements, where the mean is that of each element over the images: 0
    for equal outputs, 1 for what always gives the reference's mean output. Of several outputs it
    is the root mean square of theirs, each in units of its own spread. None stands for what has
    no value: outputs that differ from a reference that is the same for every image, or an
    infinite one.
    """

    columns: ClassVar[dict[str, str]] = {"relative_error": "relative error"}
    raw: ClassVar[tuple[str, ...]] = ("relative_error", "by_output")
    by_site: ClassVar[tuple[str, ...]] = ("relative_error",)
    error: ClassVar[str] = "relative_error"
    drawn: ClassVar[str] = "relative_error"

    def __init__(self) -> None:
        self._sums: dict[str, _Spread] = {}

    @staticmethod
    def labels(label: Any, outputs: Outputs) -> Tensor | None:
        """None: there are no classes."""
        return None

    def add(self, found: Outputs, reference: Outputs, labels: Tensor | None) -> None:
        """Adds the outputs of a batch, ``[N, ...]`` each.

        Raises:
            InputError: if an output has another shape than in the batches before.
        """
        for (name, exact), output in zip(reference.items(), found.values(), strict=True):
            self._sums.setdefault(name, _Spread(name)).add(output, exact)

    @property
    def values(self) -> dict[str, Any]:
        """The relative error of all outputs, and of each by its name."""
        each = {name: spread.relative_error for name, spread in self._sums.items()}
        known = [error for error in each.values() if error is not None]
        total = math.sqrt(sum(e * e for e in known) / len(known)) if known else None
        return {"relative_error": total, "by_output": each}


class _Spread:
    """Sums over images: of the squared error, and of the reference around its mean."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.error = self.squares = 0.0
        self.first: Tensor | None = None
        self.sums: Tensor | None = None

    def add(self, found: Tensor, reference: Tensor) -> None:
        if not reference.dim():
            found, reference = found[None], reference[None]
        found, reference = found.double(), reference.double()
        if not len(reference):
            return
        if self.first is None or self.sums is None:
            # Measured from the first image's output, an output that never changes has no spread.
            self.first = reference[0].clone()
            self.sums = torch.zeros_like(self.first)
        if reference.shape[1:] != self.first.shape:
            raise InputError(
                f"{self.name} was {[*self.first.shape]} for each image in an earlier batch and is "
                f"{[*reference.shape[1:]]} now; give batches whose outputs have one shape"
            )
        self.error += float((found - reference).square().sum())
        moved = reference - self.first
        self.count += len(moved)
        self.sums += moved.sum(0)
        self.squares += float(moved.square().sum())

    @property
    def relative_error(self) -> float | None:
        if self.error == 0 or self.sums is None:
            return 0.0
        spread = self.squares - float(self.sums.square().sum()) / self.count
        value = self.error / spread if spread > 0 else math.inf
        return math.sqrt(value) if math.isfinite(value) else None


METRICS: dict[str, type[Agreement] | type[OutputError]] = {
    "agreement": Agreement,
    "classes": Agreement,
    "output": OutputError,
}


def metric_named(name: str) -> type[Agreement] | type[OutputError]:
    """The measure of a name; InputError for one that doesn't exist."""
    if name not in METRICS:
        raise InputError(
            f"no metric is called {name!r}; choose agreement (or classes) for a network that "
            "predicts classes, output for any other"
        )
    return METRICS[name]
