"""Calibration data in every form that a user has it in, as batches that can be read twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from .errors import CalibrationError

# A one-shot iterator is kept in memory up to this size.
KEPT_BYTES = 2 * 1024**3
# A single tensor is calibrated on in batches of this many images.
_BATCH = 128


def batches_of(calibration: Any) -> Iterable[Any]:
    """Calibration batches that can be read twice; CalibrationError for what is none."""
    if isinstance(calibration, Tensor):
        if calibration.dim() == 0 or not len(calibration):
            raise CalibrationError(
                f"the calibration tensor has shape {tuple(calibration.shape)}; give [images, ...]"
            )
        return calibration.split(_BATCH)
    if isinstance(calibration, Mapping):
        return [calibration]
    if not isinstance(calibration, Iterable):
        raise CalibrationError(
            f"the calibration data is a {type(calibration).__name__}; give a DataLoader, an "
            "iterable of batches, or one tensor of images"
        )
    if not isinstance(calibration, Iterator):
        return calibration
    kept, held = [], 0
    for batch in calibration:
        leaves = pytree.tree_leaves(batch)
        held += sum(t.numel() * t.element_size() for t in leaves if isinstance(t, Tensor))
        if held > KEPT_BYTES:
            raise CalibrationError(
                f"the calibration iterator holds more than {KEPT_BYTES / 1024**3:.0f} GiB and can "
                "be read only once; give a DataLoader or a list of batches instead"
            )
        kept.append(batch)
    return kept
