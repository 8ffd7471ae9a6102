"""Bounds on a length out of the conditions that torch.export names and suggests nothing for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import CodeType

from ..calls.size_bounds import SizeBounds

# Conditions are tried on lengths up to this, and this many times the example.
_TRIED, _TIMES = 4096, 4
# A condition on one length: numbers, the length, arithmetic and comparisons.
_PLAIN = re.compile(r"[\d\s+\-*/%()<>=!n]+")
_LINE = (
    r"Not all values of {name} = (L\[.+?\]\.size\(\)\[\d+\]) in .*?satisfy the generated guard (.+)"
)


def by_guards(message: str, name: str, example: int, now: SizeBounds) -> SizeBounds | None:
    """The bounds within which the conditions that an error names hold; None where it names none.

    A convolution is captured for a result of more than one row: ``1 + (n - 1) // 32 != 1``.

    Args:
        message: what torch says.
        name: of the length.
        example: that was exported.
        now: the bounds that it was given.
    """
    most_tried = max(_TRIED, _TIMES * example)
    least, most = now.least, now.most
    for holds in _conditions(message, name):
        failing = [n for n in range(1, most_tried + 1) if not holds(n)]
        if example in failing:
            return None
        least = max([least, *(n + 1 for n in failing if n < example)])
        most = min([most or most_tried + 1, *(n - 1 for n in failing if n > example)])
        most = None if most > most_tried else most
    if (least, most) == (now.least, now.most):
        return None
    return replace(now, least=least, most=most, asked="")


def _conditions(message: str, name: str) -> Iterator[Callable[[int], bool]]:
    for source, condition in re.findall(_LINE.format(name=re.escape(name)), message):
        text = condition.replace(source, "n").strip().rstrip(".")
        if _PLAIN.fullmatch(text):
            yield partial(_holds, compile(text, "<guard>", "eval"))


def _holds(condition: CodeType, length: int) -> bool:
    return bool(eval(condition, {"__builtins__": {}}, {"n": length}))
