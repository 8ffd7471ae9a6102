"""What a metric is: a running measure of one network's outputs against another's.

A network's outputs come as floating-point tensors by name, in the order in which it returns them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor
from torch.utils import _pytree as pytree

from ..calls.batch_forms import Given
from ..calls.own_classes import register
from ..errors import InputError
from .rows import Row

Outputs = Mapping[str, Tensor]

# What models call the output that a loss or a user reads, where they return several.
_MAIN = ("logits", "out")
_NONE: Mapping[str, str] = MappingProxyType({})


class Returned(dict[str, Tensor]):
    """Outputs by name, and `result`: what the network returned, in its own form."""

    def __init__(self, named: Mapping[str, Tensor], result: Any) -> None:
        super().__init__(named)
        self.result = result


def outputs_of(result: Any) -> Returned:
    """The floating-point tensors of what a network returned: ``output``, ``output['mask']``.

    Raises:
        InputError: if there is none.
    """
    register(result)
    leaves, _ = pytree.tree_flatten_with_path(result)
    found = {
        f"output{pytree.keystr(path)}": leaf
        for path, leaf in leaves
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }
    if not found:
        raise InputError("the model returns no floating-point tensor; there is nothing to compare")
    return Returned(found, result)


def result_of(outputs: Outputs) -> Any:
    """What the network returned; the tensors by name where that isn't known."""
    return outputs.result if isinstance(outputs, Returned) else dict(outputs)


def own_name(name: str) -> str:
    """What the model calls an output: ``logits`` of ``output['logits']``; "" where it has none."""
    found = re.fullmatch(r"output(?:\['(\w+)'\]|\.(\w+))", name)
    return "" if found is None else found[1] or found[2] or ""


def main_output(outputs: Outputs, fits: Callable[[Tensor], bool]) -> str | None:
    """The name of the output that is measured: that called logits or out, else the first.

    Args:
        outputs: of a network.
        fits: whether one could be it.
    """
    names = [name for name, output in outputs.items() if output.numel() and fits(output)]
    for known in _MAIN:
        for name in names:
            if own_name(name) == known:
                return name
    return names[0] if names else None


def check_alike(name: str, found: Tensor, reference: Tensor) -> None:
    """Refuses outputs whose shape isn't that of the original's."""
    if found.shape != reference.shape:
        raise InputError(
            f"{name}: shape {list(reference.shape)} from the original, {list(found.shape)} from "
            "the spiking network; give the model that was converted"
        )


@dataclass(frozen=True)
class Shown:
    """What tables and pictures need to know of a metric.

    Args:
        columns: keys of a row of measures that tables show, with headings.
        error: the key of a site's error.
        drawn: the key of the comparison with the original: agreement or an error.
        broken: the key of how many images, or batches, have no value.
        broken_text: what these are.
        own: keys that the original has, too.
        shares: keys whose values lie between 0 and 1.
        better: ``"higher"`` or ``"lower"``, by key; left out where neither is known.
    """

    columns: Mapping[str, str]
    error: str
    drawn: str
    broken: str
    broken_text: str
    own: tuple[str, ...] = ()
    shares: frozenset[str] = frozenset()
    better: Mapping[str, str] = field(default_factory=dict)

    def axis(self, key: str) -> str:
        """The label of a key's axis: ``perplexity (lower is better)``."""
        better = self.better.get(key)
        return self.columns[key] + (f" ({better} is better)" if better else "")


class Measure(ABC):
    """What is added up over batches, and what comes of it; a subclass is a metric.

    One object stands for the metric itself: `start` gives another for every run, and `targets`
    reads what the outputs are measured against. `columns`, `error`, `drawn`, `broken`,
    `broken_text`, `own`, `shares` and `better` are those of `Shown`. `elements` says that each
    element of an output is compared over the images, `whole` that a batch must not be cut,
    `positions_second` that outputs of several rows of an image are taken as ``[N, T, ...]`` and
    not as ``[N, ..., T]``, and `needs_labels` that every batch must have labels.
    """

    columns: ClassVar[Mapping[str, str]]
    error: ClassVar[str]
    drawn: ClassVar[str]
    broken: ClassVar[str]
    broken_text: ClassVar[str]
    own: ClassVar[tuple[str, ...]] = ()
    shares: ClassVar[frozenset[str]] = frozenset()
    better: ClassVar[Mapping[str, str]] = _NONE
    elements: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    positions_second: ClassVar[bool] = False
    needs_labels: bool = False

    # Images that came with labels.
    labelled: int = 0

    def small(self, outputs: Outputs) -> bool:
        """Whether `Joined.join` can take the place of `add` for such outputs."""
        return False

    def start(self) -> Measure:
        """A measure of the same metric to which nothing was added."""
        return type(self)()

    @abstractmethod
    def labels(self, label: Any, outputs: Outputs) -> Any:
        """A batch's label in the form that `add` takes; InputError for one that doesn't fit."""

    def given(self, batch: Given) -> Any:
        """What a batch has for the metric to measure against; None for nothing."""
        return batch.label

    def targets(self, batch: Given, outputs: Outputs, size: int) -> Any:
        """The same of a whole batch, for metrics that need its inputs, or its number of images.

        Args:
            batch: as it was read.
            outputs: the original's.
            size: images of the batch.
        """
        return self.labels(batch.label, outputs)

    @abstractmethod
    def add(self, found: Outputs, reference: Outputs, labels: Any) -> None:
        """Adds the outputs of a batch, ``[N, ...]`` each, and its labels."""

    def check(self) -> None:
        """Refuses figures of the original that say nothing, once all batches were added.

        Raises:
            InputError: if nothing was measured.
        """
        return

    def measured(self, outputs: Outputs) -> str | None:
        """The name of the output that is measured; None where all are."""
        return None

    def notes(self) -> list[str]:
        """How the targets were read, where that isn't plain."""
        return []

    def remarks(self) -> list[str]:
        """What should be known of the figures of what was added."""
        return []

    def shown(self) -> Shown:
        """How the figures are called and drawn."""
        return Shown(
            columns=dict(self.columns),
            error=self.error,
            drawn=self.drawn,
            broken=self.broken,
            broken_text=self.broken_text,
            own=self.own,
            shares=self.shares,
            better=dict(self.better),
        )

    @property
    @abstractmethod
    def values(self) -> Row:
        """Everything that is measured of a network."""

    @property
    @abstractmethod
    def raw(self) -> Row:
        """What is said of a readout without correction."""

    @property
    @abstractmethod
    def site(self) -> Row:
        """What is said of a network in which some sites spike."""

    @property
    @abstractmethod
    def original(self) -> Row:
        """What is said of the original network, whose outputs are added as both."""


class Joined(Measure):
    """A measure that another one of the same metric can be added to, in place of its outputs."""

    def small(self, outputs: Outputs) -> bool:
        """True."""
        return True

    @abstractmethod
    def join(self, other: Measure) -> None:
        """Adds what was added once to another measure, with the bits of adding it here.

        Args:
            other: to which one batch was added, or which read targets alone.
        """
