"""Draws the picture of the front page from the table of CIFAR-10; writes docs/front.png.

Run ``python docs/draw_front.py`` after a change of the table of ResNet-20 in docs/cifar.md.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent
_INK, _FAINT = "#1a1a1a", "#5a5a5a"
# Two colours that everybody can tell apart, with markers of their own for print.
_PLAIN, _GATED = "#0072b2", "#d55e00"


@dataclass(frozen=True)
class Curve:
    """One kind of neuron.

    Args:
        steps: K of each network.
        time: time steps that a layer takes: K, and one more with gates.
        accuracy: on the test images.
        agreement: share of test images on which network and original predict the same class.
    """

    steps: list[int]
    time: list[int]
    accuracy: list[float]
    agreement: list[float]


@dataclass(frozen=True)
class Front:
    """What the picture shows."""

    original: float
    plain: Curve
    gated: Curve


def read_table(page: str) -> Front:
    """The figures of ResNet-20 with ReLU.

    Args:
        page: the text of docs/cifar.md.
    """
    _, _, section = page.partition("## ResNet-20 with ReLU\n")
    section, _, _ = section.partition("\n## ")
    rows: dict[str, list[list[str]]] = {}
    method = ""
    for line in re.findall(r"^\|(.+)\|$", section, re.MULTILINE):
        cells = [cell.strip() for cell in line.split("|")]
        method = cells[0] or method
        rows.setdefault(method, []).append(cells[1:])
    return Front(
        original=float(rows["original"][0][1]),
        plain=_curve(rows["`tbpi-exact`"], 0),
        gated=_curve(rows["`tbpi-exact`, `--gates 3`"], 1),
    )


def _curve(rows: list[list[str]], more: int) -> Curve:
    steps = [int(row[0]) for row in rows]
    return Curve(
        steps, [k + more for k in steps], [float(r[1]) for r in rows], [float(r[2]) for r in rows]
    )


def draw(front: Front, path: Path) -> None:
    """Draws accuracy and agreement over the time steps of a layer.

    Args:
        front: what is drawn.
        path: of the picture.
    """
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    figure.suptitle("ResNet-20 on CIFAR-10, converted for few time steps", fontsize=11, color=_INK)
    _panel(left, front, "accuracy", "Share of images with the right class")
    _panel(right, front, "agreement", "Same class as the original network")
    _line(left, front.original, f"original network: {front.original:.3f}", -13)
    _line(right, 1.0, "the original itself: 1", 4)
    right.legend(loc="lower right", fontsize=9, frameon=False, labelcolor=_INK)
    figure.savefig(path, dpi=200)


def _panel(axes: Axes, front: Front, what: str, title: str) -> None:
    axes.set_title(title, fontsize=9.5, color=_INK)
    kinds = (
        (front.plain, _PLAIN, "o", "plain neurons"),
        (front.gated, _GATED, "s", "neurons with gates"),
    )
    for curve, colour, marker, label in kinds:
        axes.plot(
            curve.time, getattr(curve, what), color=colour, marker=marker, markersize=5,
            linewidth=1.8, label=label, linestyle="--" if marker == "s" else "-",
        )  # fmt: skip
    axes.set_xlabel("time steps of each layer", fontsize=9.5, color=_INK)
    axes.set_xticks(range(2, 13, 2))
    axes.set_ylim(0.75, 1.02)
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.7)
    axes.tick_params(labelsize=9, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _line(axes: Axes, height: float, text: str, above: int) -> None:
    axes.axhline(height, color=_FAINT, linewidth=1.2, linestyle=":")
    axes.annotate(
        text, (12.4, height), xytext=(0, above), textcoords="offset points", ha="right", fontsize=9,
        color=_FAINT,
    )  # fmt: skip


def main() -> None:
    """Reads the table and draws it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--output", type=Path, default=DOCS / "front.png")
    draw(read_table((DOCS / "cifar.md").read_text(encoding="utf-8")), options.parse_args().output)


if __name__ == "__main__":
    main()
