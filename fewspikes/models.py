"""The names of the package `models`, also where a folder of yours has that name and hides it."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models import *  # noqa: F403


def _ours() -> ModuleType:
    """The package beside this one: under its own name, or under ours where another has it."""
    try:
        found = importlib.util.find_spec("models")
    # What is in sys.modules under that name may have been made by hand.
    except ValueError:
        found = None
    here = Path(__file__).resolve().parents[1] / "models" / "__init__.py"
    if found is not None and found.origin is not None and Path(found.origin).resolve() == here:
        return importlib.import_module("models")
    return importlib.import_module("fewspikes._models")


_MODELS = _ours()
# The name under which it is imported.
package = _MODELS.__name__
__all__ = list(_MODELS.__all__)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_MODELS, name)


def __dir__() -> list[str]:
    return __all__
