"""Converts an image classifier into a few-spikes network and measures it step by step.

As convert.py, but the calibration images are drawn from all, whatever their class.
"""

from __future__ import annotations

from fewspikes.commands.app import script
from fewspikes.commands.convert import convert_cifar
from fewspikes.commands.endings import leave


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return script(convert_cifar, "convert_cifar.py")


if __name__ == "__main__":
    leave(main())
