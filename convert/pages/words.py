"""Numbers as a reader of a page gets them."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

_LARGE = ((1e12, 1e12, "trillion"), (1e9, 1e9, "billion"), (1e7, 1e6, "million"))


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent; a dash for none."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{100 * share:.{digits}f} %"


def figure(value: float | None) -> str:
    """Three digits, whole from 1,000 on, in words from ten million on; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if value == 0:
        return "0"
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    for least, unit, name in _LARGE:
        if abs(value) >= least:
            return f"{value / unit:.3g} {name}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def counted(number: int, thing: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def likely_share(share: float, number: int) -> tuple[float, float]:
    """Where the share of all such images lies, with 95 % confidence.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Args:
        share: that was found.
        number: of images on which it was found.
    """
    z = 1.96
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number**2))
    half /= 1 + z * z / number
    return max(middle - half, 0.0), min(middle + half, 1.0)


def breakable(name: str) -> Markup:
    """A long name that a line may end in, behind a dot."""
    return Markup(str(escape(name)).replace(".", ".<wbr>"))
