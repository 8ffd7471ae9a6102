"""Turns a saved network into whole numbers; the same as `fewspikes quantise`."""

from __future__ import annotations

from fewspikes.commands.app import script
from fewspikes.commands.endings import leave
from fewspikes.commands.quantise import quantise_network


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return script(quantise_network, "quantise.py")


if __name__ == "__main__":
    leave(main())
