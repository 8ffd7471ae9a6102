"""``python -m fewspikes``: the same as ``fewspikes``."""

from __future__ import annotations

import sys
from pathlib import Path

from fewspikes.commands import main

if __name__ == "__main__":
    # A folder or file beside the user that is called convert or models must not hide ours.
    if Path.cwd() != Path(__file__).resolve().parents[1]:
        sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path.cwd()]
    main()
