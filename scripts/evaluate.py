"""Evaluates a saved few-spikes network; the same as `fewspikes evaluate`."""

from __future__ import annotations

from fewspikes.commands.app import script
from fewspikes.commands.endings import leave
from fewspikes.commands.evaluate import evaluate_network


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return script(evaluate_network, "evaluate.py")


if __name__ == "__main__":
    leave(main())
