"""Turns a saved few-spikes network into whole numbers for hardware, and measures what that costs."""

from __future__ import annotations

from fewspikes.commands.endings import leave
from fewspikes.commands.quantise import main

if __name__ == "__main__":
    leave(main())
