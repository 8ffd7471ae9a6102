"""Names of sites: no two alike, nor the names of their modules; all of them can be saved."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

from torch import nn

# A part of a name that is longer keeps its end: there a path has its file, and a file its line.
_LONGEST = 60
# What every module has already: no child can be called like it.
_ATTRIBUTES = frozenset(dir(nn.Module()))


def module_name(site: str) -> str:
    """What the module of a site is called: its name with _ for all but letters, digits and -."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", site)
    name = re.sub(r"^__+", "_", name)
    return f"{name}_" if keyword.iskeyword(name) or name in _ATTRIBUTES else name


def plain(wanted: str) -> str:
    """A name without the odd characters of files and notebook cells, and not too long.

    ``<stdin>:3.left`` becomes ``stdin:3.left``.
    """
    parts = wanted.split(".")
    if not re.fullmatch(r"[\w.:-]+", wanted):
        parts = [re.sub(r"_*:_*", ":", re.sub(r"[^\w:-]+", "_", p)).strip("_") for p in parts]
    return ".".join(part[-_LONGEST:] for part in parts if part) or "site"


class Names:
    """The names that are taken."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._modules = {module_name(name) for name in taken}
        self._last: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """The wanted name, or with the first number that makes it a new one; it is taken then."""
        wanted = plain(wanted)
        name, count = wanted, self._last.get(wanted, 0)
        if count:
            name = f"{wanted}_{count}"
        while module_name(name) in self._modules:
            count += 1
            name = f"{wanted}_{count}"
        self._last[wanted] = count
        self._modules.add(module_name(name))
        return name
