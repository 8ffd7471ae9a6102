"""What is said of images that were left out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .options import Reading

if TYPE_CHECKING:
    from models.corrupt import LeftOut


def told_left_out(options: Reading, sources: Mapping[str, LeftOut]) -> dict[str, dict[str, Any]]:
    """Warns of images that were left out; gives what a report says of them, if any may be.

    Args:
        options: how images were read.
        sources: images that were left out, by what they were for.
    """
    for left_out in sources.values():
        if len(left_out):
            print(f"warning: {left_out}", file=sys.stderr)
    if options.corrupt != "skip":
        return {}
    return {"skipped": {name: left_out.to_dict() for name, left_out in sources.items()}}
