"""The model around the parts: its copy, what its batches are, and what it gives for the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..calls.batch_forms import Given
from ..calls.batch_reading import ReadBatches, moved, read_by
from ..calls.own_classes import register
from ..capture.fidelity import agree, floats, gap_between
from ..capture.flat_call import check_call
from ..capture.isolate import Isolated, device_of_model, for_inference
from ..common.messages import first_line, users_line
from ..errors import CalibrationError, CaptureError
from .whole_calls import reader_for


class WholeModel:
    """A copy of the user's model that runs on calibration batches.

    Args:
        isolation: the user's model and the copy.
        batches: calibration batches.

    Attributes:
        model: the copy, in eval mode, without caches of keys and values.
        reader: reads batches.
        first: the first batch, read.
        expected: the floating-point outputs of the user's model for it.

    Raises:
        CalibrationError: for data without a batch.
        CaptureError: for a model that refuses the first batch, or whose copy gives other outputs.
    """

    def __init__(self, isolation: Isolated, batches: Iterable[Any]) -> None:
        self._batches = batches
        self.model = isolation.copied
        self.home = device_of_model(self.model)
        self._caching: list[Any] = [
            config
            for module in self.model.modules()
            if getattr(config := getattr(module, "config", None), "use_cache", False) is True
        ]
        for_inference(self.model)
        self.model.requires_grad_(False)
        none = object()
        batch = next(iter(batches), none)
        if batch is none or batch is None:
            raise CalibrationError(
                "the calibration data yields no batch; give at least one batch of the model's"
            )
        self.reader = reader_for(self.model, batch, self.run)
        self.first = self.reader.read(batch)
        check_call(self.model, *moved(self.first, self.home))
        self.expected = self._outputs_of_users(isolation)

    @property
    def caches(self) -> bool:
        """Whether the user's model keeps keys and values for a next token."""
        return bool(self._caching)

    @contextmanager
    def caching(self) -> Iterator[None]:
        """A block in which the copy keeps them as well."""
        try:
            for config in self._caching:
                config.use_cache = True
            yield
        finally:
            for config in self._caching:
                config.use_cache = False

    @property
    def batches(self) -> ReadBatches:
        """The calibration batches, read."""
        return read_by(self._batches, self.reader)

    def run(self, given: Given) -> Any:
        """What the copy gives for a batch."""
        args, kwargs = moved(given, self.home)
        with torch.no_grad():
            return self.model(*args, **kwargs)

    def _outputs_of_users(self, isolation: Isolated) -> list[Tensor]:
        with isolation.model_in_use() as user:
            expected = self._outputs(user)
        found = self._outputs(self.model)
        if agree(expected, found):
            return expected
        again = gap_between(found, self._outputs(self.model))
        if again > 0:
            raise CaptureError(
                "the model gives different outputs for the same input in eval mode (largest "
                f"difference {again:.3g} of the output's magnitude); remove the randomness or the "
                "state that forward keeps"
            )
        raise CaptureError(
            f"a deep copy of the model gives other outputs (largest difference "
            f"{gap_between(expected, found):.3g} of their magnitude); forward reads what isn't "
            "copied with the model"
        )

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        args, kwargs = moved(self.first, self.home)
        try:
            with torch.no_grad():
                result = model(*args, **kwargs)
        except Exception as error:
            line = users_line(error)
            where = f" at {line}" if line else ""
            raise CaptureError(
                f"the model refuses the first calibration batch{where}: {first_line(error)}; give "
                "batches in the form in which the model is called"
            ) from error
        register(result)
        return floats(result)
