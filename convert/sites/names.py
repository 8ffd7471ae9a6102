"""Names of sites: no two alike, nor the paths of their modules, in which dots are underscores."""

from __future__ import annotations

from collections.abc import Iterable


class Names:
    """The names that are taken."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._mangled = {name.replace(".", "_") for name in taken}
        self._last: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """The wanted name, or with the first number that makes it a new one; it is taken then."""
        name, count = wanted, self._last.get(wanted, 0)
        if count:
            name = f"{wanted}_{count}"
        while name.replace(".", "_") in self._mangled:
            count += 1
            name = f"{wanted}_{count}"
        self._last[wanted] = count
        self._mangled.add(name.replace(".", "_"))
        return name
