"""Models that a function in a file of the user makes. Importing the file runs its code."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from .errors import ModelError, NoPreprocessingError
from .files import shown
from .preprocessing import Preprocessing
from .text import TextPreprocessing

ATTRIBUTE, IN_FILE = "preprocessing", "PREPROCESSING"


def preprocessing(path: str, function: str) -> Preprocessing | TextPreprocessing:
    """What the file says of the model's inputs: ``FUNCTION.preprocessing``, or PREPROCESSING.

    Raises:
        ModelError: for a file that can't be imported.
        NoPreprocessingError: if it says nothing.
    """
    called = _function(path, function)
    said = getattr(called, ATTRIBUTE, None) or getattr(_imported(path), IN_FILE, None)
    if isinstance(said, Mapping):
        return Preprocessing.from_dict(said)
    if isinstance(said, Preprocessing | TextPreprocessing):
        return said
    raise NoPreprocessingError(
        f"{shown(path)} doesn't say what {function}'s model expects of its images; give --size, "
        f"--mean, --std and --classes, or write {IN_FILE} = dict(size=..., mean=..., std=..., "
        "classes=...) into it"
    )


def make(path: str, function: str) -> nn.Module:
    """The model that the function returns, called without arguments.

    Raises:
        ModelError: for a file that can't be imported, a call that fails, or another result.
    """
    called = _function(path, function)
    try:
        model = called()
    except Exception as error:
        raise ModelError(f"{shown(path)}:{function}() failed: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{shown(path)}:{function}() gave a {type(model).__name__}; it must return an nn.Module"
        )
    return model


def _function(path: str, name: str) -> Callable[[], Any]:
    module = _imported(path)
    found = getattr(module, name, None)
    if not callable(found):
        own = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ModelError(
            f"{shown(path)} has no function {name!r}; it has {', '.join(own[:8]) or 'none'}"
        )
    return found


def _imported(path: str) -> ModuleType:
    """The file as a module: imported once, with its own folder on the path meanwhile."""
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"no file at {shown(path)}: the model is to come from there; check it")
    file = file.resolve()
    # One name for each content: a file that was changed is imported anew.
    content = hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:16]
    name = f"_model_file_{content}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise ModelError(f"{shown(path)} can't be imported: {_reason(error)}") from error
    finally:
        sys.path.remove(str(file.parent))
    return module


def _reason(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}"
