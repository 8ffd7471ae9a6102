"""Fits a neuron to one function; the same as `fewspikes fit`."""

from __future__ import annotations

from fewspikes.commands.app import script
from fewspikes.commands.endings import leave
from fewspikes.commands.fit import fit_function


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return script(fit_function, "fit_activation.py")


if __name__ == "__main__":
    leave(main())
