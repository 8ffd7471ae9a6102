"""The command `fewspikes`: what each of its commands takes, does and prints.

Nothing heavy is imported before it is needed, so help and refusals come at once.
"""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """The entry point: runs the command that was typed, and ends the process."""
    from . import app, endings

    endings.leave(app.main())
