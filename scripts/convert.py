"""Converts a model into a few-spikes network; the same as `fewspikes convert`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    # An import of the package convert that finds this file gets no further than its end.
    from fewspikes.commands.app import script
    from fewspikes.commands.convert import convert_model

    return script(convert_model, "convert.py")


def _give_way() -> None:
    """Puts the package convert in this file's place, where an import found this file instead.

    Python looks beside a script first.
    """
    here, before = Path(__file__).resolve().parent, sys.path[:]
    sys.path[:] = [place for place in before if Path(place).resolve() != here]
    del sys.modules["convert"]
    try:
        importlib.import_module("convert")
    finally:
        sys.path[:] = before


if __name__ == "convert":
    _give_way()
elif __name__ == "__main__":
    from fewspikes.commands.endings import leave

    leave(main())
