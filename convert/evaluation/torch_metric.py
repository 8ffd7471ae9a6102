"""A metric of torchmetrics, one copy for every run."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.label_names import label_among, named_parts
from ..errors import InputError
from .measures import Measure, Outputs, Shown, main_output, outputs_of, result_of
from .own_metric import TAKEN, OwnMetric, Targets, check_names, finite, kind_of, number_of, refused


def is_torch_metric(given: Any) -> bool:
    """Whether an object is a `Metric` or `MetricCollection` of torchmetrics.

    The package isn't imported for that: who has such an object has imported it.
    """
    package = sys.modules.get("torchmetrics")
    return package is not None and isinstance(given, package.Metric | package.MetricCollection)


class TorchMetric(OwnMetric):
    """What a metric of torchmetrics computes of all batches.

    It is given the model's output (the one called logits or out, else the first, of several) and
    the labels as a tensor. The object that the user gave stays as it is: every run has a copy.

    Args:
        metric: a `Metric` or `MetricCollection`.
    """

    def __init__(self, metric: Any) -> None:
        super().__init__()
        self._given = metric
        self._own: Any = None
        self._computed: Mapping[str, float | None] | None = None
        self._left_out: list[str] = []
        # Some look at the outputs alone.
        self._alone = not _takes(metric, 2) and _takes(metric, 1)
        self.needs_labels = not self._alone

    def start(self) -> Measure:
        """A measure by a copy of the same metric."""
        return TorchMetric(self._given)

    def __str__(self) -> str:
        return type(self._given).__name__

    @property
    def higher_is_better(self) -> bool | None:
        """What the metric says."""
        said = getattr(self._given, "higher_is_better", None)
        return said if isinstance(said, bool) else None

    def measured(self, outputs: Outputs) -> str | None:
        """The name of the output that is measured; None where all go to the metric as they are."""
        if _as_they_are(result_of(outputs)):
            return None
        return main_output(outputs, lambda output: output.dim() > 0)

    def update(self, found: Outputs, targets: Targets, *, original: bool) -> None:
        """Updates the copy."""
        if self._own is None:
            device = next(iter(found.values())).device
            self._own = self._given.clone()
            self._own.reset()
            _alone(self._own)
            self._own.to(device)
        outputs, labels = self._pair(found, targets)
        try:
            if self._alone:
                self._own.update(outputs)
            else:
                self._own.update(outputs, labels)
        except Exception as error:
            raise refused(self, error, outputs, Targets(labels, targets.images)) from error
        self._computed = None

    def _pair(self, found: Outputs, targets: Targets) -> tuple[Any, Any]:
        """Outputs and labels in the forms that torchmetrics take."""
        result = result_of(found)
        if _as_they_are(result):
            return result, targets.label
        # As the model returned it, wherever its images lie.
        raw = outputs_of(result) if result is not found else found
        name = self.measured(raw)
        output = raw[name] if name is not None else next(iter(raw.values()))
        label = _tensor(targets.label, output)
        if isinstance(label, Tensor):
            _check_classes(str(self), self._given, label)
            if output.shape == (*label.shape, 1):
                output = output.squeeze(-1)
            elif label.shape == (*output.shape[:1], 1) != output.shape:
                label = label.squeeze(-1)
        return output, label

    @property
    def figures(self) -> Mapping[str, float | None]:
        """What the metric computes, by name."""
        if self._computed is None:
            self._computed = {} if self._own is None else self._compute()
        return self._computed

    def _compute(self) -> dict[str, float | None]:
        try:
            given = self._own.compute()
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"metric '{self}' computes nothing: {lines[0][:200]}") from error
        parts = dict(given) if isinstance(given, Mapping) else {str(self): given}
        # Nobody can give them other names.
        parts = {f"{self}_{n}" if n in TAKEN else n: value for n, value in parts.items()}
        check_names(self, parts)
        numbers = {name: number_of(value) for name, value in parts.items()}
        known = {name: value for name, value in numbers.items() if value is not None}
        if not known:
            value = next(iter(parts.values()), None)
            raise InputError(
                f"metric '{self}' computes a {kind_of(value)}; give one that computes one number "
                "(average='macro', for example), or a dict of numbers"
            )
        self._left_out = [name for name in parts if name not in known]
        self._broken = sum(not math.isfinite(value) for value in known.values())
        return {name: finite(value) for name, value in known.items()}

    def check(self) -> None:
        """Refuses figures of the original that are NaN or infinite."""
        missing = [name for name, value in self.figures.items() if value is None]
        if missing:
            raise InputError(
                f"metric '{self}' gives no finite {', '.join(missing)} for the original's outputs; "
                "give a metric that has a value for them"
            )

    def remarks(self) -> list[str]:
        """Which figures aren't shown."""
        left = [f"{', '.join(self._left_out)} of '{self}' are no single numbers and were left out"]
        return [*super().remarks(), *(left if self._left_out else [])]

    def shown(self) -> Shown:
        """As of every metric of a user's own; shares are known by the metric's bounds."""
        shown = super().shown()
        bounds = [getattr(self._given, f"plot_{end}_bound", None) for end in ("lower", "upper")]
        if bounds != [0, 1]:
            return shown
        return Shown(**{**vars(shown), "shares": frozenset(shown.own)})


def _alone(metric: Any) -> None:
    """Keeps a metric from adding up what other processes have: it is given everything."""
    for each in metric.values() if hasattr(metric, "values") else [metric]:
        each.sync_on_compute = each._to_sync = False


def _takes(metric: Any, count: int) -> bool:
    """Whether a metric's update takes so many arguments."""
    try:
        inspect.signature(metric.update).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _as_they_are(result: Any) -> bool:
    """Whether outputs are a list of dicts, as detectors return them."""
    listed = isinstance(result, list | tuple) and bool(result)
    return listed and all(named_parts(part) is not None for part in result)


def _check_classes(name: str, metric: Any, label: Tensor) -> None:
    """Refuses classes that a metric doesn't have; it may not look itself."""
    classes = getattr(metric, "num_classes", None)
    if not isinstance(classes, int) or label.is_floating_point() or label.is_complex():
        return
    ignored = getattr(metric, "ignore_index", None)
    known = label if ignored is None else label[label != ignored]
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < classes:
        raise InputError(
            f"labels go from {int(known.min())} to {int(known.max())}, but metric '{name}' has "
            f"{classes} classes; give it ignore_index= for a label that is none"
        )


def _tensor(label: Any, output: Tensor) -> Any:
    """A label as a tensor on the output's device, if it is an array or a dict with one."""
    named = named_parts(label)
    if named is not None:
        name = label_among(named)
        if name is None and len(named) == 1:
            name = next(iter(named))
        if name is None:
            found = ", ".join(str(key)[:30] for key in list(named)[:6])
            raise InputError(
                f"labels are a dict with {found}; a metric of torchmetrics takes one label: give "
                "(inputs, label), or a function of (outputs, targets) as metric="
            )
        return _tensor(named[name], output)
    if isinstance(label, list | tuple) and all(isinstance(part, Tensor) for part in label):
        if len(label) == 1:
            return label[0].to(output.device)
        if any(part.dim() for part in label):
            raise InputError(
                f"a batch has {len(label)} labels; a metric of torchmetrics takes one: give "
                "(inputs, label), or a function of (outputs, targets) as metric="
            )
    return _array(label, output)


def _array(label: Any, output: Tensor) -> Any:
    """Plain numbers as a tensor; anything else as it is."""
    try:
        return torch.as_tensor(label, device=output.device)
    except (TypeError, ValueError, RuntimeError):
        return label
