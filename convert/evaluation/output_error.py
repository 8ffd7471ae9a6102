"""The measure of networks whose outputs are no classes: their relative error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from ..errors import InputError
from .measures import Measure, Outputs, check_alike
from .relative_error import Spread
from .rows import OutputMeasures, OutputOriginal, OutputSite


class OutputError(Measure):
    """Relative error of outputs that are no classes; labels are not looked at.

    Of one output it is the root of ``sum (found - reference)^2 / sum (reference - mean)^2``, both
    sums over all images and elements, where the mean is that of each element over the images: 0
    for equal outputs, 1 for what always gives the reference's mean output. Of several outputs it
    is the root mean square of theirs, each in units of its own spread. None stands for what has
    no value: outputs that differ from a reference that is the same for every image, or an
    infinite one. The former are left out of the error of several; with NaN or infinity in any of
    them there is no such error. Where the batches have outputs of several shapes (texts of several
    lengths), the mean is that over the axes that vary, too.
    """

    columns: ClassVar[dict[str, str]] = {"relative_error": "relative error"}
    error: ClassVar[str] = "relative_error"
    drawn: ClassVar[str] = "relative_error"
    better: ClassVar[Mapping[str, str]] = MappingProxyType({"relative_error": "lower"})
    elements: ClassVar[bool] = True
    broken: ClassVar[str] = "not_finite"
    broken_text: ClassVar[str] = "Images with NaN or infinity in an output, which have no error"

    def __init__(self) -> None:
        self._sums: dict[str, Spread] = {}
        self._broken = 0

    @staticmethod
    def labels(label: Any, outputs: Outputs) -> Tensor | None:
        """None: there are no classes."""
        return None

    def add(self, found: Outputs, reference: Outputs, labels: Tensor | None) -> None:
        """Adds the outputs of a batch, ``[N, ...]`` each.

        Raises:
            InputError: if an output has another shape than the reference's, or than in the batches
                before.
        """
        if len(found) != len(reference):
            raise InputError(
                f"the original returns {len(reference)} outputs, the spiking network {len(found)}; "
                "give the model that was converted"
            )
        for (name, exact), output in zip(reference.items(), found.values(), strict=True):
            if output.shape[1:] == exact.shape[1:] and "[" in name and len(output) != len(exact):
                raise InputError(
                    f"{name}: {len(exact)} from the original, {len(output)} from the spiking "
                    "network, which can't be compared one by one; of detections give a metric of "
                    "torchmetrics, or a function of (outputs, targets)"
                )
            check_alike(name, output, exact)
            self._sums.setdefault(name, Spread(name)).add(output, exact)
        self._broken += _images_not_finite(found)

    def remarks(self) -> list[str]:
        """Which outputs had several shapes."""
        names = ", ".join(name for name, spread in self._sums.items() if spread.varies)
        return [f"{names} has several shapes: its mean is over the axes that vary, too"] * bool(
            names
        )

    @property
    def values(self) -> OutputMeasures:
        """The relative error of all outputs, and of each by its name."""
        each = {name: spread.relative_error for name, spread in self._sums.items()}
        return OutputMeasures(self._total, each, not_finite=self._broken)

    @property
    def _total(self) -> float | None:
        if not all(math.isfinite(spread.error) for spread in self._sums.values()):
            return None
        each = [spread.relative_error for spread in self._sums.values()]
        known = [error for error in each if error is not None]
        return math.sqrt(sum(e * e for e in known) / len(known)) if known else None

    @property
    def raw(self) -> OutputMeasures:
        """The same as `values`."""
        return self.values

    @property
    def site(self) -> OutputSite:
        """The relative error of all outputs."""
        return OutputSite(self._total, not_finite=self._broken)

    @property
    def original(self) -> OutputOriginal:
        """Nothing but images whose outputs are not finite."""
        return OutputOriginal(not_finite=self._broken)


def _images_not_finite(outputs: Outputs) -> int:
    """Images with NaN or infinity in any output; one without a batch dimension is one image."""
    images: set[int] = set()
    for output in outputs.values():
        if output.numel():
            broken = ~output.isfinite().reshape(len(output) if output.dim() else 1, -1)
            images.update(broken.any(1).nonzero().flatten().tolist())
    return len(images)
