"""Fits a few-spikes neuron to one activation function and prints what each K costs."""

from __future__ import annotations

from fewspikes.commands.endings import leave
from fewspikes.commands.fit import main

if __name__ == "__main__":
    leave(main())
