"""What torch.export says of lengths that vary: bounds, lengths that are one, and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..calls.size_bounds import fixed, related, suggested
from ..errors import CaptureError
from .guard_bounds import by_guards
from .guards import Guard, line_of
from .varying import Varying


def narrowed(
    varying: Sequence[Varying], message: str, guards: list[Guard]
) -> tuple[Varying, ...] | None:
    """The lengths that vary within the bounds that an error asks for; None if it asks for none.

    Args:
        varying: as they were exported.
        message: what torch says.
        guards: what the capture took for granted of sizes.

    Raises:
        CaptureError: for a length that can't vary.
    """
    found = [_narrowed(v, message, guards) for v in varying]
    merged = _merged(found, message)
    return merged if merged != tuple(varying) else None


def _narrowed(v: Varying, message: str, guards: list[Guard]) -> Varying:
    length = fixed(message, v.name, v.bounds.divisor)
    if length is not None:
        raise CaptureError(_must_be(v, str(length), line_of(guards, [length])))
    bounds = suggested(message, v.bounds, v.name)
    bounds = bounds or by_guards(message, v.name, v.exported, v.bounds)
    if bounds is None:
        return v
    numbers = [bounds.least, bounds.divisor, *([bounds.most] if bounds.most else [])]
    asked = line_of(guards, [n for n in numbers if n > 1])
    return replace(v, bounds=replace(bounds, asked=asked))


def _merged(varying: Sequence[Varying], message: str) -> tuple[Varying, ...]:
    """The same with one in place of two that torch says are equal."""
    made: dict[str, Varying] = {v.name: v for v in varying}
    for v in varying:
        relation = related(message, v.name)
        if relation is None or v.name not in made:
            continue
        if relation not in made:
            raise CaptureError(_must_be(v, relation, ""))
        gone, kept = made.pop(v.name), made[relation]
        made[relation] = replace(kept, places=(*kept.places, *gone.places))
    return tuple(made.values())


def _must_be(v: Varying, what: str, line: str) -> str:
    why = f": forward asks at {line}" if line else ""
    advice = (
        f'leave "{v.name}" out of dynamic=' if v.asked else "give calibration batches of one size"
    )
    return f"{v.name} must be {what}{why}; {advice}, or make forward free of that"
