"""What is said of an error of another library."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Its class and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
