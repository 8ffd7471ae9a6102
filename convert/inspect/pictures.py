"""What all pictures share: colours, sizes, and files that are written whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..common.files import atomic_path, file_path, shown
from ..common.messages import shortened
from ..errors import InputError
from ..network.setting_values import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]

# Okabe and Ito's colours, which are told apart by all kinds of eyes.
BLUE, ORANGE, SKY = "#0072b2", "#d55e00", "#56b4e9"
GREY, PALE = "#777777", "#e6e6e6"
ENDINGS = (".png", ".svg", ".pdf")
# In inches; at 100 pixels an inch all text is legible.
WIDTH = 7.0


def new_figure(width: float, height: float) -> Figure:
    # matplotlib takes half a second to import; only who draws pays for it.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def ending_of(path: Path | None) -> str:
    """The format of a picture file, checked before anything is drawn."""
    if path is None:
        return ""
    ending = file_path(path).suffix.lower()
    if ending not in ENDINGS:
        raise InputError(
            f"a picture is written as {', '.join(ENDINGS)}, found {shown(path)!r}; rename it"
        )
    return ending[1:]


def written(figure: Figure, path: Path | None, ending: str) -> Figure:
    if path is not None:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=ending, dpi=150)
    return figure


def number(value: object, name: str, least: int, end: int | None) -> int:
    """A whole number from `least` up to, but not with, `end`."""
    found = whole(value)
    if found is None or found < least or (end is not None and found >= end):
        span = f"from {least}" if end is None else f"from {least} to {end - 1}"
        raise InputError(f"{name} must be a whole number {span}, found {value!r}")
    return found


def plain(name: str, most: int) -> str:
    """A name as a picture shows it: its end, which tells sites apart, and never as a formula."""
    line = shortened(name)
    line = line if len(line) <= most else f"…{line[-(most - 1) :]}"
    return line.replace("$", r"\$")
