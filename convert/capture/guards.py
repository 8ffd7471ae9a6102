"""Which lines of forward ask torch.export for the size of the batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..common.messages import calling_line, is_users, quoted


@dataclass(frozen=True)
class Guard:
    """A condition on a size that a capture took for granted.

    Args:
        condition: as torch writes it.
        line: of the user's code.
        direct: whether that line compares a size itself, not an operation of torch's inside it.
    """

    condition: str
    line: str
    direct: bool


@contextmanager
def noted(guards: list[Guard]) -> Iterator[None]:
    """Appends the conditions that torch.export takes for granted inside the block."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv  # loads sympy, as an export does

    original = getattr(ShapeEnv, "_log_guard", None)
    if original is None:  # a torch that keeps no log of them: messages name no line
        yield
        return

    def log(self: Any, prefix: str, condition: Any, *args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1)
        if (place := calling_line(frame)) is not None:
            guards.append(Guard(str(condition), quoted(*place), _direct(frame)))
        return original(self, prefix, condition, *args, **kwargs)

    ShapeEnv._log_guard = log  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        ShapeEnv._log_guard = original  # type: ignore[method-assign]


def line_of(guards: list[Guard], numbers: list[int]) -> str:
    """The line that most likely asks for a bound; empty where no line of the user's does.

    Args:
        guards: that a capture noted.
        numbers: one of which its condition names.
    """
    direct = [guard for guard in guards if guard.direct] or guards
    named = [g for g in direct if any(str(n) in g.condition for n in numbers)] or direct
    return named[0].line if named else ""


def _direct(frame: FrameType | None) -> bool:
    """Whether nothing but torch's arithmetic of sizes lies between a guard and the user's line."""
    while frame is not None and not is_users(name := frame.f_code.co_filename):
        inside = ("symbolic_shapes.py", "sym_node.py", "torch/__init__.py", "recording.py")
        library = not name.endswith(inside) and "torch" in name
        if library and not name.endswith(("_stats.py", "functools.py")):
            return False
        frame = frame.f_back
    return True
