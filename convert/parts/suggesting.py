"""What else to call where a model can't be captured as a whole."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..calls.batch_parts import with_tensors
from ..calls.batch_reading import moved
from ..calls.forward_parameters import parameters_of
from ..capture.capturable_parts import advice
from ..capture.isolate import isolated
from ..errors import CaptureError, ConversionError
from .whole_calls import as_list
from .whole_model import WholeModel


def with_parts(error: ConversionError, model: nn.Module, batch: Any) -> ConversionError:
    """The error of a capture, with the call that converts the parts that can be captured.

    It is the same error where there are none, where it says so already, or where it is about data
    that no detector takes.

    Args:
        error: of capture.
        model: the user's; it is left as it was.
        batch: the first calibration batch.
    """
    if "modules=[" in str(error) or not isinstance(model, nn.Module):
        return error
    try:
        listed = as_list(with_tensors(batch), parameters_of(model)) is not None
        if not isinstance(error, CaptureError) and not listed:
            return error
        with isolated(model, []) as isolation:
            whole = WholeModel(isolation, [batch])
            call = advice(whole.model, *moved(whole.first, whole.home))
    except Exception:
        return error
    return type(error)(f"{error}; {call}") if call else error
