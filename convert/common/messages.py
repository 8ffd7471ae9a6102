"""What is said of values and of errors of other libraries: one line, never long."""

from __future__ import annotations

_MOST = 300


def first_line(error: BaseException) -> str:
    """Its class and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def shortened(text: object, most: int = _MOST) -> str:
    """A text as one line that can be printed, its middle left out where it is too long.

    Args:
        text: what to show.
        most: characters that are kept.
    """
    whole = str(text)
    # Of a text of millions of characters only the ends are looked at.
    if len(whole) > 4 * most:
        whole = f"{whole[: 2 * most]}{whole[-2 * most :]}"
        cut = True
    else:
        cut = False
    line = " ".join(whole.encode("utf-8", "backslashreplace").decode("utf-8").split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) <= most and not cut:
        return line
    end = most // 3
    return f"{line[: most - end]} ... {line[-end:]}"
