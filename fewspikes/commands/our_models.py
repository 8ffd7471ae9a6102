"""Modules of the package `models`, also where a folder of the user's has that name and hides it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models import devices as devices
    from models import sources as sources


def __getattr__(name: str) -> object:
    if name not in ("devices", "sources"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fewspikes import models

    return importlib.import_module(f"{models.package}.{name}")
