"""What one operation and one access to memory cost: tables of constants, read and checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError

End = Literal["low", "usual", "high"]
ENDS: tuple[End, ...] = ("low", "usual", "high")

# Costs that every table must have; further ones may stand beside them for reference.
NEEDED = ("float32_add", "float32_multiply", "int32_add", "int8_multiply")
_OPERATION = re.compile(r"(int|float)[1-9]\d*_(add|multiply)")
_FORM = "the form of convert/inspect/data/45nm.json"


@dataclass(frozen=True)
class Constant:
    """The energy of one operation, or of one read or write of memory.

    Args:
        name: as the table names it.
        low, usual, high: in pJ.
        source: where the figures come from.
        kind: ``arithmetic``, ``sram`` or ``dram``.
        bits: of one access; 0 for arithmetic.
        size: bytes that an SRAM holds; None for everything else.
    """

    name: str
    low: float
    usual: float
    high: float
    source: str
    kind: str = "arithmetic"
    bits: int = 0
    size: int | None = None

    def at(self, end: End) -> float:
        """Its value at one end of the range, in pJ."""
        return {"low": self.low, "usual": self.usual, "high": self.high}[end]

    @property
    def label(self) -> str:
        """In words."""
        if self.kind == "dram":
            return "DRAM"
        if self.size is None:
            return self.name
        unit, text = (1 << 20, "MiB") if self.size >= 1 << 20 else (1 << 10, "KiB")
        return f"{self.size / unit:g} {text} SRAM"

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        known = {"low": self.low, "usual": self.usual, "high": self.high, "unit": "pJ"}
        memory = {"kind": self.kind, "bytes": self.size, "bits": self.bits} if self.bits else {}
        return {**known, **memory, "source": self.source}


@dataclass(frozen=True)
class CostTable:
    """The constants of one process.

    Args:
        name: how it was asked for.
        title: in words.
        constants: by name, arithmetic and memories.
        notes: what was scaled, and how.
    """

    name: str
    title: str
    constants: Mapping[str, Constant]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Constant:
        return self.constants[name]

    @property
    def srams(self) -> list[Constant]:
        """From the smallest to the largest."""
        found = [c for c in self.constants.values() if c.kind == "sram"]
        return sorted(found, key=lambda c: c.size or 0)

    @property
    def dram(self) -> Constant:
        return next(c for c in self.constants.values() if c.kind == "dram")

    def holding(self, size: float) -> Constant | None:
        """The smallest SRAM that holds so many bytes; None where none does."""
        return next((c for c in self.srams if (c.size or 0) >= size), None)


def known_costs() -> list[str]:
    """Names of the tables that come with the package."""
    names = [f.name for f in (files(__package__) / "data").iterdir()]
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def read_costs(costs: str | Path | Mapping[str, Any]) -> CostTable:
    """A table of costs, checked.

    Args:
        costs: the name of a table of the package, the path of a JSON file, or what such a file
            holds.

    Raises:
        InputError: there is no such table, or an entry of it can't be used.
    """
    if isinstance(costs, Mapping):
        return _table("given", costs)
    if not isinstance(costs, str | Path):
        raise InputError(
            f"costs is {_found(costs)}: give a name ({', '.join(known_costs())}), the path of a "
            "JSON file, or a mapping"
        )
    name = str(costs)
    if name in known_costs():
        return _table(
            name, json.loads((files(__package__) / "data" / f"{name}.json").read_text("utf-8"))
        )
    path = Path(costs)
    if isinstance(costs, str) and path.suffix != ".json" and not path.is_file():
        raise InputError(
            f"costs={name!r} is no known table: give one of {', '.join(known_costs())}, or the "
            "path of a JSON file"
        )
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"{name}: the table of costs can't be read ({error.strerror}): give the path of a JSON "
            f"file, or one of {', '.join(known_costs())}"
        ) from error
    except ValueError as error:
        raise InputError(f"{name} is no JSON ({error}): write it in {_FORM}") from error
    return _table(name, content)


def _table(name: str, content: Any) -> CostTable:
    if not isinstance(content, Mapping):
        raise InputError(
            f"costs {name} holds {_found(content)}, not a mapping: write it in {_FORM}"
        )
    constants: dict[str, Constant] = {}
    for part in ("arithmetic", "memory"):
        entries = content.get(part)
        if not isinstance(entries, Mapping):
            raise InputError(f"costs {name} has no {part!r}: write it in {_FORM}")
        for key, entry in entries.items():
            if part == "arithmetic" and not _OPERATION.fullmatch(str(key)):
                raise InputError(
                    f"costs {name}: {key} is no operation: name it as in int16_add or "
                    "float32_multiply"
                )
            if key in constants:
                raise InputError(f"costs {name}: {key} stands in arithmetic and in memory")
            constants[key] = _constant(f"costs {name}: {key}", key, part, entry)
    missing = [k for k in NEEDED if k not in constants or constants[k].kind != "arithmetic"]
    kinds = [c.kind for c in constants.values()]
    missing += ["a memory of kind 'sram'"] * ("sram" not in kinds)
    missing += ["a memory of kind 'dram'"] * ("dram" not in kinds)
    if missing:
        raise InputError(
            f"costs {name} has no entry for {', '.join(missing)}: add it with low, usual, high, "
            "unit and source"
        )
    if kinds.count("dram") > 1:
        raise InputError(
            f"costs {name} has {kinds.count('dram')} memories of kind 'dram': leave one"
        )
    notes = content.get("notes", ())
    if isinstance(notes, str) or not isinstance(notes, list | tuple):
        raise InputError(f"costs {name}: notes are {_found(notes)}: give a list of sentences")
    return CostTable(name, str(content.get("title", name)), constants, tuple(map(str, notes)))


def _constant(where: str, name: str, part: str, entry: Any) -> Constant:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is {_found(entry)}: give low, usual, high, unit and source")
    ends = {end: _number(where, end, entry) for end in ENDS}
    if not ends["low"] <= ends["usual"] <= ends["high"]:
        raise InputError(
            f"{where} has low {ends['low']:g}, usual {ends['usual']:g}, high {ends['high']:g}: "
            "give them in this order, from the smallest to the largest"
        )
    if entry.get("unit") != "pJ":
        raise InputError(f"{where} has unit {entry.get('unit')!r}: give it in 'pJ'")
    source = entry.get("source")
    if not isinstance(source, str) or not source.strip():
        raise InputError(f"{where} has no source: say where the figure comes from")
    values = (ends["low"], ends["usual"], ends["high"])
    if part == "arithmetic":
        return Constant(name, *values, source)
    kind = entry.get("kind")
    if kind not in ("sram", "dram"):
        raise InputError(f"{where} has kind {kind!r}: give 'sram' or 'dram'")
    size = _whole(where, "bytes", entry) if kind == "sram" else None
    return Constant(name, *values, source, str(kind), _whole(where, "bits", entry), size)


def _number(where: str, key: str, entry: Mapping[str, Any]) -> float:
    value = entry.get(key)
    if value is None:
        raise InputError(f"{where} has no {key!r}: give a number of pJ")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where} has {key} {_found(value)}: give a number of pJ")
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{where} has {key} {value}: give a finite number of pJ, not below 0")
    return float(value)


def _whole(where: str, key: str, entry: Mapping[str, Any]) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{where} has {key} {_found(value)}: give a whole number above 0")
    return value


def _found(value: object) -> str:
    """A value of the wrong type in few words."""
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
