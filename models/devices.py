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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ModelError(f"device {name!r} can't be used ({reason}); choose another") from error
    return device
