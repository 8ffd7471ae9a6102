"""Trained networks in, few-spikes networks out: one name for `convert` and `models`.

`fewspikes.to_spiking` is `convert.to_spiking`, and so is every other name of `convert`;
`fewspikes.models` has the names of `models`. What is heavy is imported when a name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convert import *  # noqa: F403

    from . import models as models

__version__ = "0.1.0"

_OWN = ("__version__", "models")


def __getattr__(name: str) -> object:
    # Names with underscores are asked for by tools that only look; they must not import torch.
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "models":
        return importlib.import_module(f"{__name__}.models")
    convert = importlib.import_module("convert")
    # Modules of `convert` are its own; what it names for others is in `__all__`.
    if name not in convert.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(convert, name)
    return found


def __dir__() -> list[str]:
    return sorted((*_OWN, *importlib.import_module("convert").__all__))
