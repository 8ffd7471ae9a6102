"""What users add to the package's tables at run time."""

from __future__ import annotations

from typing import Any, TypeVar

from ..errors import InputError

Key = TypeVar("Key")
Value = TypeVar("Value")


class Registration:
    """An entry that was added to a table; `remove` takes it out again."""

    def __init__(self, table: dict[Any, Any], key: Any) -> None:
        self._table, self._key = table, key
        self._value = table[key]

    def remove(self) -> None:
        """Takes the entry out; nothing happens if that is done already."""
        if self._table.get(self._key) is self._value:
            del self._table[self._key]


def register(table: dict[Key, Value], key: Key, value: Value, what: str) -> Registration:
    """Adds an entry to a table.

    Args:
        table: it is changed.
        key, value: the entry.
        what: what the entry stands for, for the message.

    Raises:
        InputError: if the table has an entry of that key.
    """
    if key in table:
        raise InputError(f"{what} is known already; remove what was registered before")
    table[key] = value
    return Registration(table, key)
