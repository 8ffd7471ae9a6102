"""Draws the rooms of `convert/` and their imports, as they are now; writes docs/architecture.png.

Run ``python docs/draw_rooms.py`` after a change of the rooms. A room stands as high as its longest
way down. An arrow leads to each room that is imported and isn't reached through another one; the
other imports stand in the box.
"""

from __future__ import annotations

import argparse
import ast
import textwrap
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
DOOR = "the door"
# Imported by nearly every room: at the bottom, without arrows.
EVERYWHERE = ("common", "errors")
# Middle of each room's box, from left to right.
COLUMNS = {
    DOOR: 1.5, "pages": 0.0, "inspect": 0.0, "evaluation": 1.0, "storage": 2.0, "parts": 3.0,
    "assembly": 3.0, "exporters": 0.0,
    "network": 1.5, "calibration": 0.75, "sites": 0.75, "rewrite": 0.75, "capture": 0.75,
    "graph": 0.75, "calls": 0.75, "fitting": 2.25, "neuron": 2.25,
}  # fmt: skip
# Width of a box, height of a line of text, and space between rows, in columns.
_WIDTH, _LINE, _GAP = 0.96, 0.088, 0.27
_INK, _FAINT, _ARROW, _BOX, _DARK = "#1a1a1a", "#4d4d4d", "#0072b2", "#f2f6fa", "#d5e4f0"

Pair = tuple[str, str]


@dataclass(frozen=True)
class Rooms:
    """What the import graph says.

    Args:
        modules: how many modules a room has, by its name.
        imports: how many imports lead from a module of the first room to one of the second.
        lazy: the same for those that the layer contract lets go up.
    """

    modules: Mapping[str, int]
    imports: Mapping[Pair, int]
    lazy: Mapping[Pair, int]

    def below(self, room: str) -> set[str]:
        """The rooms that a room imports and that have a place of their own."""
        return {b for a, b in self.imports if a == room and b not in EVERYWHERE}

    def height(self, room: str) -> int:
        """The number of rooms on the longest way down from a room."""
        return max((1 + self.height(lower) for lower in self.below(room)), default=0)

    def arrows(self) -> dict[Pair, int]:
        """Imports of rooms that aren't reached through another one."""
        found = {}
        for (upper, lower), count in self.imports.items():
            if lower in EVERYWHERE:
                continue
            others = self.below(upper) - {lower}
            if not any(lower in self._reached(other) for other in others):
                found[upper, lower] = count
        return found

    def _reached(self, room: str) -> set[str]:
        lower = self.below(room)
        return lower.union(*(self._reached(each) for each in lower))


def room_of(module: str) -> str:
    """The room of a module: ``graph`` for ``convert.graph.fold``."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in ("conversion", "refitting", "pricing"):
        return DOOR
    return parts[1]


def read_rooms() -> Rooms:
    """The rooms of the package and their imports."""
    graph = grimp.build_graph("convert", cache_dir=None)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    allowed = {line for contract in contracts for line in contract.get("ignore_imports", ())}
    imports: Counter[Pair] = Counter()
    lazy: Counter[Pair] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = room_of(module), room_of(imported)
            if pair[0] != pair[1]:
                kind = lazy if f"{module} -> {imported}" in allowed else imports
                kind[pair] += 1
    return Rooms(Counter(map(room_of, graph.modules)), imports, lazy)


def describe(room: str) -> str:
    """What a room is, in its own words: the first line of its docstring, without details."""
    if room == DOOR:
        return "to_spiking, refit, and the names that users import"
    text = (ROOT / "convert" / room / "__init__.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return first.partition(":")[0].rstrip(".")


def lines_of(rooms: Rooms, room: str, drawn: Mapping[Pair, int]) -> tuple[list[str], list[str]]:
    """What stands in a box below its name: what the room is, and the imports without an arrow."""
    width = 34 if room == DOOR else 25
    rest = sorted(
        (-count, lower)
        for (upper, lower), count in rooms.imports.items()
        if upper == room and (upper, lower) not in drawn and lower not in EVERYWHERE
    )
    also = ", ".join(f"{lower} {-count}" for count, lower in rest)
    lazily = ", ".join(f"{b} {n}" for (a, b), n in rooms.lazy.items() if a == room)
    small = textwrap.wrap(f"also {also}", width + 3) if also else []
    small += textwrap.wrap(f"when called: {lazily}", width + 3) if lazily else []
    return textwrap.wrap(describe(room), width), small


def draw(rooms: Rooms, path: Path) -> None:
    """Writes the picture.

    Args:
        rooms: from `read_rooms`.
        path: a picture file.

    Raises:
        ValueError: for rooms that `COLUMNS` gives no place, or one place to two.
    """
    arrows = rooms.arrows()
    names = [room for room in rooms.modules if room not in EVERYWHERE]
    _check_places(rooms, names)
    texts = {room: lines_of(rooms, room, arrows) for room in names}
    tall = {room: _LINE * (1.9 + sum(map(len, texts[room]))) for room in names}
    middle: dict[str, tuple[float, float]] = {}
    top = 0.0
    for height in sorted({rooms.height(room) for room in names}, reverse=True):
        row = [room for room in names if rooms.height(room) == height]
        most = max(tall[room] for room in row)
        for room in row:
            middle[room] = COLUMNS[room], top - most / 2
        top -= most + _GAP
    bottom = top + _GAP / 2 - _LINE * 2
    figure = Figure(figsize=(8.6, 8.6 * (0.1 - bottom) / 4.06))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.53, 3.53), ylim=(bottom - 0.05, 0.05))
    axes.axis("off")
    for pair, count in arrows.items():
        _arrow(axes, middle, tall, pair, count)
    for room in names:
        _box(axes, room, middle[room], tall[room], texts[room], rooms.modules[room])
    uses = ", ".join(
        f"{room} ({sum(n for (_, lower), n in rooms.imports.items() if lower == room)} imports)"
        for room in EVERYWHERE
    )
    axes.add_patch(_rectangle((1.5, bottom + _LINE), 3.96, _LINE * 2, _DARK))
    axes.text(1.5, bottom + _LINE, f"below every room: {uses}", ha="center", va="center", size=10)
    figure.savefig(path, dpi=150)


def _check_places(rooms: Rooms, names: Iterable[str]) -> None:
    taken: dict[tuple[int, float], str] = {}
    for room in names:
        if room not in COLUMNS:
            raise ValueError(f"COLUMNS has no place for {room!r}; give it one")
        other = taken.setdefault((rooms.height(room), COLUMNS[room]), room)
        if other != room:
            raise ValueError(f"{room!r} and {other!r} are in one place; change COLUMNS")


def _rectangle(
    middle: tuple[float, float], width: float, height: float, colour: str
) -> FancyBboxPatch:
    corner = middle[0] - width / 2 + 0.03, middle[1] - height / 2 + 0.03
    return FancyBboxPatch(
        corner, width - 0.06, height - 0.06, "round,pad=0.03", fc=colour, ec=_INK, lw=1, zorder=2
    )


def _box(
    axes: Axes,
    room: str,
    middle: tuple[float, float],
    tall: float,
    text: tuple[list[str], list[str]],
    modules: int,
) -> None:
    what, small = text
    wide = 1.3 if room == DOOR else _WIDTH
    axes.add_patch(_rectangle(middle, wide, tall, _DARK if room == DOOR else _BOX))
    y = middle[1] + tall / 2 - _LINE * 0.95
    count = "1 module" if modules == 1 else f"{modules} modules"
    axes.text(middle[0] - wide / 2 + 0.05, y, room, va="center", size=12, weight="bold", color=_INK)
    axes.text(middle[0] + wide / 2 - 0.05, y, count, va="center", ha="right", size=8, color=_FAINT)
    for line in what + small:
        y -= _LINE
        size, colour = (9.5, _INK) if line in what else (8.5, _FAINT)
        axes.text(middle[0] - wide / 2 + 0.05, y, line, va="center", size=size, color=colour)


def _arrow(
    axes: Axes,
    middle: Mapping[str, tuple[float, float]],
    tall: Mapping[str, float],
    pair: Pair,
    count: int,
) -> None:
    (x0, y0), (x1, y1) = (middle[room] for room in pair)
    # Arrows leave and enter a box beside its middle, on the side of the other end.
    x0, x1 = x0 + 0.25 * max(-1, min(1, x1 - x0)), x1 + 0.25 * max(-1, min(1, x0 - x1))
    y0, y1 = y0 - tall[pair[0]] / 2, y1 + tall[pair[1]] / 2
    axes.annotate(
        "", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "color": _ARROW, "lw": 1.6}
    )
    axes.text(
        (x0 + x1) / 2, (y0 + y1) / 2, str(count), ha="center", va="center", size=9.5, color=_ARROW,
        weight="bold", bbox={"fc": "white", "ec": "none", "pad": 1.5}, zorder=3,
    )  # fmt: skip


def main() -> None:
    """Writes the picture that the page shows, or another file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "architecture.png")
    draw(read_rooms(), parser.parse_args().output)


if __name__ == "__main__":
    main()
