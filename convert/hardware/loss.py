"""What whole numbers cost: the network before and after, both against the original."""

from __future__ import annotations

from collections.abc import Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..calls.batch_forms import Given
from ..calls.batch_reading import read_by
from ..capture.model_kinds import as_program_takes
from ..common.batches import ahead, batches_once
from ..common.progress import Progress
from ..common.tables import table
from ..errors import InputError
from ..evaluation.choice import suitable
from ..evaluation.measures import Measure
from ..evaluation.metrics import metric_of
from ..evaluation.rows import Row
from ..evaluation.runs import by_image, by_row, device_of, eval_mode, outputs, targets_of
from ..network.input_types import cast_for
from .result import QuantisedModel


@dataclass(frozen=True)
class Loss:
    """What was measured, in rows of one metric.

    Args:
        metric: its name.
        images: how many.
        original: of the original network.
        spiking: of the converted one, against the original.
        quantised: of the one in whole numbers, against the original.
    """

    metric: str
    images: int
    original: Row
    spiking: Row
    quantised: Row

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        rows = {"original": self.original, "spiking": self.spiking, "quantised": self.quantised}
        named = {name: row.to_dict() for name, row in rows.items()}
        return {"metric": self.metric, "images": self.images, **named}

    def __str__(self) -> str:
        keys = list(self.quantised)
        rows = []
        for name in ("original", "spiking", "quantised"):
            row = getattr(self, name)
            rows.append([name, *("" if row.get(key) is None else row[key] for key in keys)])
        return f"{self.images} images\n\n{table(['network', *keys], rows)}"


def measure(
    quantised: QuantisedModel,
    data: Any,
    model: nn.Module | None = None,
    *,
    metric: Any = None,
    progress: bool = True,
) -> Loss:
    """Runs the original, the converted network and the one in whole numbers on the same batches.

    Args:
        quantised: from `quantise`.
        data: batches as for `evaluate`.
        model: the original; None for the exact functions of the network.
        metric: as for `evaluate`.
        progress: shows a bar on stderr.

    Raises:
        InputError: as `evaluate` does.
    """
    if not isinstance(quantised, QuantisedModel):
        raise InputError(
            f"measure takes what quantise returns first, found a {type(quantised).__name__}"
        )
    both = _Both(quantised, model, metric)
    reader = quantised.snn.reader()
    signature = quantised.snn.signature
    read = read_by(batches_once(data, signature.cut_axis), reader)
    total = len(read) if isinstance(read, Sized) else None
    with torch.no_grad(), eval_mode(both.original), eval_mode(quantised.snn):
        for batch in Progress(ahead(read), "quantised", total, shown=progress):
            for part in signature.taken(batch):
                both.add(part)
    if both.kind is None:
        raise InputError("the test data yields no image; give at least one batch")
    both.exact.check()
    return Loss(both.name, both.images, both.exact.original, both.spiking.values, both.whole.values)


class _Both:
    """Three networks, and what was added up of the batches that went through them."""

    def __init__(self, quantised: QuantisedModel, model: nn.Module | None, metric: Any) -> None:
        self.quantised, self.snn = quantised, quantised.snn
        self.original = self.snn.original() if model is None else model
        self.name = ""
        self.kind: Measure | None = None
        if metric is not None:
            self.name, self.kind = metric_of(metric)
        self.images = 0
        self._started = False

    def _start(self, kind: Measure) -> None:
        self.exact, self.spiking, self.whole = (kind.start() for _ in range(3))
        self._started = True

    def add(self, batch: Given) -> None:
        """Runs one batch through all three."""
        inputs, signature = (batch.args, batch.kwargs), self.snn.signature
        size = signature.images(signature.flatten(*inputs))
        if not size:
            return
        device, home = device_of(self.snn), device_of(self.original)
        own = as_program_takes(self.original, *cast_for(self.original, inputs))
        returned = outputs(self.original, own, home, device)
        if self.kind is None:
            self.name, _ = suitable(batch, by_row(signature, returned))
            self.name, self.kind = metric_of(self.name)
        if not self._started:
            self._start(self.kind)
        if self.kind.needs_labels and self.kind.given(batch) is None:
            raise InputError(
                f"a batch has no labels, which metric={self.name!r} needs; give (inputs, labels)"
            )
        labels = targets_of(signature, self.kind, batch, returned, size)
        expected = by_image(signature, returned, self.kind)
        self.exact.add(expected, expected, labels)
        within: AbstractContextManager[object] = nullcontext()
        if self.quantised.summary.steps != self.snn.steps:
            within = self.snn.with_steps(self.quantised.summary.steps)
        with within:
            found = outputs(self.snn, inputs, device)
        self.spiking.add(by_image(signature, found, self.kind), expected, labels)
        found = outputs(self.quantised, inputs, torch.device("cpu"), device)
        self.whole.add(by_image(signature, found, self.kind), expected, labels)
        self.images += size
