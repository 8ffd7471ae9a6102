"""The package `models` once more, under a name that no folder of a user's has.

Its modules import one another relatively, so its files work under any name; processes that are
started afresh, as those that read images, find it by this name too.
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / "models"
__path__ = [str(_FOLDER)]
_DOOR = _FOLDER / "__init__.py"
exec(compile(_DOOR.read_text("utf-8"), str(_DOOR), "exec"))
