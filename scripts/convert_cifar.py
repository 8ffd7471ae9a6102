"""Converts an image classifier into a few-spikes network and measures it step by step.

As convert.py, but the calibration images are drawn from all, whatever their class.
"""

from __future__ import annotations

import argparse

from fewspikes.commands.convert import add_options, kept, run, written
from fewspikes.commands.endings import leave, run_command
from fewspikes.commands.kinds import Parser


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    add_options(result, batch_size=250)
    return result


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(
        parser(), lambda options: run(options, evenly=False), writes=written, kept=kept
    )


if __name__ == "__main__":
    leave(main())
