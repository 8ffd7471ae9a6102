"""The package `convert` once more, without its door, which imports torch.

For what is wanted at once: the modules that read a file need no torch, and import one another
relatively, so they work under any name.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "convert")]
