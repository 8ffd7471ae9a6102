"""What names a model: a name of this package, a library's, or a function in a file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import ModelError

LIBRARIES = ("torchvision", "timm", "hf")
FORMS = "a name of models.names(), torchvision:NAME, timm:NAME, hf:FOLDER_OR_NAME, FILE.py:FUNCTION"


@dataclass(frozen=True)
class Spec:
    """A model's name, taken apart.

    Args:
        kind: ``torchvision``, ``timm``, ``hf``, ``file``, or empty for a name of this package.
        name: what the model is called there; of a file, its path.
        function: of a file.
    """

    kind: str
    name: str
    function: str = ""

    @property
    def short(self) -> str:
        """A name that will do as that of a file."""
        last = self.function or Path(self.name).stem or "model"
        if self.kind == "hf":
            last = Path(self.name).name.removesuffix(".zip")
        return re.sub(r"[^\w.-]+", "_", last).strip(".") or "model"


def spec_of(text: str) -> Spec:
    """The parts of a model's name.

    Raises:
        ModelError: for an empty name, an unknown library, or a file without a function.
    """
    if not isinstance(text, str) or not text.strip():
        raise ModelError(f"a model's name is {text!r}; give {FORMS}")
    library, colon, name = text.partition(":")
    if colon and library in LIBRARIES:
        if not name:
            raise ModelError(f"{text!r} names no model of {library}; give {FORMS}")
        return Spec(library, name)
    path, colon, function = text.rpartition(":")
    if colon and path.endswith(".py"):
        if not function.isidentifier():
            raise ModelError(f"{text!r} names no function behind the colon; give FILE.py:FUNCTION")
        return Spec("file", path, function)
    if text.endswith(".py"):
        raise ModelError(
            f"{text!r} names a file; add its function that makes the model: {text}:make"
        )
    if colon or os.sep in text:
        raise ModelError(f"no model is called {text!r}; give {FORMS}")
    return Spec("", text)


def short_name(text: str) -> str:
    """A model's name in a form that will do as that of a file."""
    return spec_of(text).short
