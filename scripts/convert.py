"""Converts a model into a few-spikes network and measures it step by step.

Takes the models of this package, of torchvision, timm and Hugging Face, and your own, on images or
texts. The calibration images are drawn equally from every class.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from fewspikes.commands.convert import add_options, kept, run, written
from fewspikes.commands.endings import leave, run_command
from fewspikes.commands.kinds import Parser


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    add_options(result, batch_size=32)
    return result


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(
        parser(), lambda options: run(options, evenly=True), writes=written, kept=kept
    )


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
    leave(main())
