"""Evaluates a saved few-spikes network on labelled images, against its original or a checkpoint."""

from __future__ import annotations

from fewspikes.commands.endings import leave
from fewspikes.commands.evaluate import main

if __name__ == "__main__":
    leave(main())
