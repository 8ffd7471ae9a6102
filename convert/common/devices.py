"""The device that a user named."""

from __future__ import annotations

import torch

from ..errors import InputError
from .messages import first_line, shortened

_KINDS = ("cpu", "cuda", "mps", "xpu")


def usable_device(device: object) -> torch.device:
    """A device on which tensors can be made here.

    Args:
        device: a `torch.device`, or a name like ``"cpu"`` or ``"cuda:0"``.

    Raises:
        InputError: naming what was found, and why it can't be used.
    """
    named = shortened(repr(str(device) if isinstance(device, torch.device) else device), 60)
    if not isinstance(device, str | torch.device) or device == "":
        raise InputError(f"device must be a name like 'cpu' or 'cuda:0', found {named}")
    try:
        found = torch.device(device)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"no device is called {named}; choose from {', '.join(_KINDS)}") from error
    if found.type == "meta":
        raise InputError("device='meta' holds no values, so no network can run; use 'cpu'")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise InputError(f"device {named}: CUDA isn't available here; use 'cpu'")
        if found.index is not None and found.index >= count:
            raise InputError(
                f"device {named}: there are {count} CUDA devices here, numbered from 0; use one of "
                "them, or 'cpu'"
            )
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = shortened(first_line(error), 120)
        raise InputError(f"device {named} can't be used here ({reason}); use 'cpu'") from error
    return found


def apart(device: torch.device) -> bool:
    """Whether a value there can't be read without waiting for all work that was given before."""
    return device.type != "cpu"
