"""Whether labels and predictions speak of the same classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .class_labels import IGNORED
from .classes import predicted_classes

# An accuracy this unlikely by chance (the logarithm of a bound of its probability) is told.
_UNLIKELY = -7.0
_NAMED = 6


class ClassSpace:
    """Counts the labels and the original's predictions, and says where they don't belong together.

    Args:
        of_labels: names of the data's classes, if they are known.
        of_network: names of the network's classes, if they are known.
    """

    def __init__(self, of_labels: Sequence[str] = (), of_network: Sequence[str] = ()) -> None:
        self._names = of_labels, of_network
        self._labels: Counter[int] = Counter()
        self._predictions: Counter[int] = Counter()
        self._right = self._classes = 0
        self._positions = False

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Adds the original's logits ``[N, classes, ...]`` and class indices ``[N, ...]``."""
        self._classes = max(logits.shape[1], 2)
        self._positions |= logits.dim() > 2
        known = labels != IGNORED
        labels, predictions = labels[known], predicted_classes(logits)[known]
        self._labels.update(_counted(labels))
        self._predictions.update(_counted(predictions[predictions >= 0]))
        self._right += int((labels == predictions).sum())

    def join(self, other: ClassSpace) -> None:
        """Adds what was added to another."""
        self._classes = max(self._classes, other._classes)
        self._positions |= other._positions
        self._labels.update(other._labels)
        self._predictions.update(other._predictions)
        self._right += other._right

    @property
    def doubts(self) -> list[str]:
        """What speaks against labels and network belonging together."""
        count = sum(self._labels.values())
        if count < 2 or not self._predictions:
            return []
        told = f"the labels are {self._listed(self._labels, 0)}"
        if not self._labels.keys() & self._predictions.keys():
            return [
                f"no label's class is ever predicted by the original: {told}, it predicts "
                f"{self._listed(self._predictions, 1)}; the labels may be numbered otherwise than "
                "in its training"
            ]
        pairs = sum(n * self._predictions[c] for c, n in self._labels.items())
        # Of guesses as often as the predictions are, or of guesses among the labels' classes.
        chance = pairs / (count * sum(self._predictions.values()))
        chance = max(chance, 1 / len(self._labels) if len(self._labels) > 1 else 0.0)
        # Neighbouring positions of one image aren't independent.
        if not self._positions and _log_tail(self._right, count, chance) < _UNLIKELY:
            return [
                f"the original is right on {self._right / count:.1%} of the labels, fewer than by "
                f"chance ({chance:.1%}): {told}, it predicts "
                f"{self._listed(self._predictions, 1)}; they may be numbered otherwise than in its "
                "training"
            ]
        if len(self._labels) == 1 and len(self._predictions) > 1 and not self._positions:
            return [f"all {count} labels are {self._listed(self._labels, 0)}: the accuracy is its"]
        return []

    def _listed(self, classes: Mapping[int, int], which: int) -> str:
        """The classes with their names, the first few."""
        names = self._names[which]
        listed = [
            f"{c} ({names[c][:30]})" if c < len(names) else str(c) for c in sorted(classes)[:_NAMED]
        ]
        more = len(classes) - _NAMED
        return ", ".join(listed) + (f" and {more} more" if more > 0 else "")


def _counted(classes: Tensor) -> dict[int, int]:
    """How often each class occurs."""
    values, counts = classes.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _log_tail(right: int, count: int, chance: float) -> float:
    """A bound of the logarithm of the probability of so few right ones (Chernoff's)."""
    share = right / count
    if share >= chance:
        return 0.0
    if chance >= 1:
        return -math.inf
    divergence = (1 - share) * math.log((1 - share) / (1 - chance))
    if right:
        divergence += share * math.log(share / chance)
    return -count * divergence


def class_names(source: Any) -> Sequence[str]:
    """Names of the classes that a data source, a model or metadata tells; none if they don't.

    That is `classes` of it, or of the `dataset` behind it, as in torchvision, or `id2label` of a
    model's `config`.
    """
    labelled = getattr(getattr(source, "config", None), "id2label", None)
    if isinstance(labelled, Mapping):
        return [str(labelled.get(i, "")) for i in range(len(labelled))]
    for _ in range(5):
        known = source.get("classes") if isinstance(source, Mapping) else None
        known = known or getattr(source, "classes", None)
        if isinstance(known, list | tuple) and all(isinstance(name, str) for name in known):
            return [str(name) for name in known]
        source = getattr(source, "dataset", None)
    return ()
