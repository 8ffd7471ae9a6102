"""Reasons why torch.export fails that have a remedy of their own."""

from __future__ import annotations

import re


def operator_without_fake(cause: BaseException | None) -> str | None:
    """What to say where a custom operator can't be traced; None where that isn't the reason."""
    text = str(cause)
    found = re.search(r"no fake impl registered for <CustomOpDef\(([\w.]+::[\w.]+)\)>", text)
    name = found.group(1) if found else None
    if type(cause).__name__ == "UnsupportedOperatorException":
        parts = text.split()[0].split(".") if text.split() else []
        name = "::".join(parts[:2]) if len(parts) > 1 else None
    if name is None:
        return None
    return (
        f"the operator {name} can't be traced, because torch doesn't know the shape of what it "
        f'returns; register that with torch.library.register_fake("{name}")'
    )
