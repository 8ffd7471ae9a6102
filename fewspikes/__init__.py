"""Trained networks in, few-spikes networks out: one name for `convert` and `models`.

`fewspikes.to_spiking` is `convert.to_spiking`, and so is every other name of `convert`;
`fewspikes.models` has the names of `models`, and `fewspikes.inspect` those of `convert.inspect`.
What is heavy is imported when a name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convert import *  # noqa: F403

    from . import inspect as inspect
    from . import models as models

__version__ = "0.1.0"

_MODULES = ("inspect", "models")


def __getattr__(name: str) -> object:
    # Names with underscores are asked for by tools that only look; they must not import torch.
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    convert = importlib.import_module("convert")
    # Modules of `convert` are its own; what it names for others is in `__all__`.
    if name not in convert.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(convert, name)
    return found


def __dir__() -> list[str]:
    return sorted(("__version__", *_MODULES, *importlib.import_module("convert").__all__))
