"""Devices by name."""

from __future__ import annotations

import torch

from .errors import ModelError


def device_named(name: str) -> torch.device:
    """The device of a name like ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: if there is no such device, or it can't be used here.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"no device is called {name[:60]!r}; choose cpu, cuda or mps") from error
    if device.type == "meta":
        raise ModelError("the device meta holds no values, so nothing can run there; choose cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            found = f"there are {count} CUDA devices" if count else "CUDA isn't available"
            raise ModelError(f"device {name!r} can't be used: {found} here; choose another")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ModelError(f"device {name!r} can't be used ({reason}); choose cpu") from error
    return device
