"""Builds the zoo of converted networks that ships with the package, and measures them."""

from __future__ import annotations

from fewspikes.commands.app import script
from fewspikes.commands.build_zoo import build_zoo
from fewspikes.commands.endings import leave


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return script(build_zoo, "build_zoo.py")


if __name__ == "__main__":
    leave(main())
