"""What a metric is: a running measure of one network's outputs against another's.

A network's outputs come as floating-point tensors by name, in the order in which it returns them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import InputError
from ..graph.own_classes import register
from .rows import Row

Outputs = Mapping[str, Tensor]


def outputs_of(result: Any) -> dict[str, Tensor]:
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
    return found


def check_alike(name: str, found: Tensor, reference: Tensor) -> None:
    """Refuses outputs whose shape isn't that of the original's."""
    if found.shape != reference.shape:
        raise InputError(
            f"{name}: shape {list(reference.shape)} from the original, {list(found.shape)} from "
            "the spiking network; give the model that was converted"
        )


class Measure(ABC):
    """What is added up over batches, and what comes of it; a subclass is a metric.

    `columns` has the keys of `values` that a table shows, with headings; `error` is the key of a
    site's error, `drawn` that of the curve over the steps, `broken` that of the number of images
    without a value, and `broken_text` says what these are. `elements` says that each element of an
    output is compared over the images.
    """

    columns: ClassVar[dict[str, str]]
    error: ClassVar[str]
    drawn: ClassVar[str]
    broken: ClassVar[str]
    broken_text: ClassVar[str]
    elements: ClassVar[bool] = False

    # Images that came with labels.
    labelled: int = 0

    @staticmethod
    @abstractmethod
    def labels(label: Any, outputs: Outputs) -> Tensor | None:
        """A batch's label in the form that `add` takes; InputError for one that doesn't fit."""

    @abstractmethod
    def add(self, found: Outputs, reference: Outputs, labels: Tensor | None) -> None:
        """Adds the outputs of a batch, ``[N, ...]`` each, and its labels."""

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
