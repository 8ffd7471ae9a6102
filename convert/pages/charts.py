"""Charts of lines: accuracy and its like over K, or over the step at which a network is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .svg import Axis, line_path, short
from .words import figure, percent

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 430, 12, 226
# Colours, dashes and marks that go together; the page's style says what they look like.
STYLES = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name: in the legend.
        points: x and y; None, or what isn't finite, leaves a gap.
        style: of `STYLES`; ``level`` for a line without marks that says what is to be reached.
    """

    name: str
    points: tuple[tuple[float, float | None], ...]
    style: str


@dataclass(frozen=True)
class Chart:
    """A chart with what a reader who doesn't see it is told.

    Args:
        title: above it, short.
        told: what it means, in a sentence.
        x_name, y_name: of the axes.
        lines: what is drawn.
        shares: whether y lies between 0 and 1, and is written in percent.
        log: whether equal ratios of y take equal space, where all values allow that.
        over: what x is, in one word.
    """

    title: str
    told: str
    x_name: str
    y_name: str
    lines: tuple[Line, ...]
    shares: bool
    log: bool = False
    over: str = ""

    @property
    def columns(self) -> list[str]:
        """Of the table: x, and each line."""
        return [self.x_name, *(line.name for line in self.lines)]

    @property
    def rows(self) -> list[list[str]]:
        """Of the table, in order of x."""
        xs = sorted({x for line in self.lines for x, _ in line.points})
        each = [dict(line.points) for line in self.lines]
        write = percent if self.shares else figure
        return [[figure(x), *(write(values.get(x)) for values in each)] for x in xs]

    def svg(self, identity: str) -> Markup:
        """The picture; the title in the page has this identity."""
        return _Drawing(self).svg(identity)


class _Drawing:
    """A chart's axes, and what lies on them."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        xs = [x for line in chart.lines for x, _ in line.points]
        ys = [y for line in chart.lines for _, y in _known(line)]
        left, right = min(xs, default=0.0), max(xs, default=1.0)
        if left == right:
            left, right = left - 1, right + 1
        self.across = Axis(left, right, _LEFT + 14, _RIGHT - 14)
        self.up = self._upward(ys)

    def _upward(self, ys: Sequence[float]) -> Axis:
        if self.chart.shares:
            # From the tenth below the lowest on, so that near lines can be told apart.
            low = math.floor(10 * min(ys, default=0.0) - 0.5) / 10
            return Axis(min(max(low, 0.0), 0.8), 1.0, _BOTTOM, _TOP)
        low, high = min(ys, default=0.0), max(ys, default=1.0)
        if self.chart.log and low > 0:
            return Axis(low / 1.3, high * 1.3, _BOTTOM, _TOP, log=True)
        low, high = min(low, 0.0), max(high, 0.0)
        return Axis(low, low + 1.05 * (high - low or 1.0), _BOTTOM, _TOP)

    def svg(self, identity: str) -> Markup:
        """Everything."""
        chart = self.chart
        frame = Markup(
            '<svg viewBox="0 0 {w} {h}" role="img" aria-labelledby="{id}"><title id="{id}">{title}'
            '</title>{grid}<path class="frame" d="M{l} {t}V{b}H{r}"/>{lines}'
            '<text x="{mx}" y="{h2}" class="mid">{x_name}</text>'
            '<text transform="translate(13 {my}) rotate(-90)" class="mid">{y_name}</text></svg>'
        )
        return frame.format(
            w=_WIDTH,
            h=_HEIGHT,
            id=identity,
            title=f"{chart.title}. {self._in_words()}",
            grid=self._grid(),
            l=_LEFT,
            t=_TOP,
            b=_BOTTOM,
            r=_RIGHT,
            lines=Markup("").join(map(self._line, chart.lines)),
            mx=(_LEFT + _RIGHT) // 2,
            h2=_HEIGHT - 6,
            my=(_TOP + _BOTTOM) // 2,
            x_name=chart.x_name,
            y_name=chart.y_name,
        )

    def _in_words(self) -> str:
        """First and last value of every line."""
        write = percent if self.chart.shares else figure
        told = []
        for line in self.chart.lines:
            known = _known(line)
            if known and line.style == "level":
                told.append(f"{line.name}: {write(known[0][1])}")
            elif known:
                ends = known[:1] if len(known) == 1 else [known[0], known[-1]]
                told.append(
                    f"{line.name}: " + ", ".join(f"{write(y)} at {figure(x)}" for x, y in ends)
                )
        return "; ".join(told) + "."

    def _grid(self) -> Markup:
        write = (lambda v: percent(v, 0)) if self.chart.shares else figure
        parts = [
            Markup(
                '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" class="end">{}</text>'
            ).format(_LEFT, y, _RIGHT, _LEFT - 5, short(float(y) + 4), write(tick))
            for tick in self.up.ticks()
            for y in [short(self.up.place(tick))]
        ]
        xs = sorted({x for line in self.chart.lines for x, _ in line.points})
        shown = xs if len(xs) <= 12 else [x for x in self.across.ticks(10) if x == int(x)]
        parts += [
            Markup('<text x="{}" y="{}" class="mid">{}</text>').format(
                short(self.across.place(x)), _BOTTOM + 17, figure(x)
            )
            for x in shown
        ]
        return Markup("").join(parts)

    def _line(self, line: Line) -> Markup:
        if line.style == "level":
            ends = (float(_LEFT), line.points[0][1]), (float(_RIGHT), line.points[-1][1])
            level = line_path((x, self._height(y)) for x, y in ends)
            return Markup('<path class="level" d="{}"/>').format(level)
        placed = [(self.across.place(x), self._height(y)) for x, y in line.points]
        marks = Markup("").join(mark(line.style, x, y) for x, y in placed if math.isfinite(y))
        drawn = Markup('<path class="line {}" d="{}"/>').format(line.style, line_path(placed))
        return drawn + marks

    def _height(self, y: float | None) -> float:
        return self.up.place(math.nan if y is None else float(y))


def mark(style: str, x: float, y: float) -> Markup:
    """The mark of a line's point: another shape for each style."""
    shapes = {
        "a": "M{x} {y}m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
        "b": "M{x} {y}m-3.6-3.6h7.2v7.2h-7.2Z",
        "c": "M{x} {y}m0-5l5 5l-5 5l-5-5Z",
        "d": "M{x} {y}m0-4.6l4.4 8h-8.8Z",
    }
    path = shapes[style].format(x=short(x), y=short(y))
    return Markup('<path class="mark {}" d="{}"/>').format(style, path)


def key(style: str) -> Markup:
    """The sign of a line in a legend; the words beside it say its name."""
    drawn = "level" if style == "level" else f"line {style}"
    marks = Markup("") if style == "level" else mark(style, 15, 7)
    return Markup(
        '<svg class="key" viewBox="0 0 30 14" aria-hidden="true"><path class="{}" d="M1 7H29"/>{}'
        "</svg>"
    ).format(drawn, marks)


def _known(line: Line) -> list[tuple[float, float]]:
    """The points of a line that have a value."""
    return [(x, float(y)) for x, y in line.points if y is not None and math.isfinite(y)]
