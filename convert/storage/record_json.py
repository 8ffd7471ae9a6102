"""What a network carries beside its graph, as JSON and back: signature, report, histograms."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict, namedtuple
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from ..calibration.histogram import Histogram
from ..common.messages import shortened
from ..errors import ConversionError, StorageError
from ..graph.roles import Operation
from ..network.report import Correction, OutputError, Report, SiteRow
from ..network.settings import ConversionSettings
from ..parts.report import PartRow

# The report's lists of rows.
_ROWS = ("sites", "corrections", "output_errors")
_T = TypeVar("_T", SiteRow, Correction, OutputError, Operation, Report, PartRow)
_DEEPEST = 32
# Of values: JSON of more levels is read by few programs, and a value that holds itself has no end.
_MOST_LEVELS = 100
# Python writes whole numbers of some 600 digits under any of its settings.
_MOST_BITS = 2048
_DTYPES = {str(v)[6:]: v for v in vars(torch).values() if isinstance(v, torch.dtype)}


class Outputs(OrderedDict[str, Any]):
    """Named outputs of a network whose own output class isn't there: ``out["logits"]``,
    ``out.logits`` and ``out[0]`` are the same."""

    def __getitem__(self, key: Any) -> Any:
        return (
            list(self.values())[key] if isinstance(key, int | slice) else super().__getitem__(key)
        )

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"no output is called {name!r}; there are {', '.join(self)}")


pytree.register_pytree_node(
    Outputs,
    lambda outputs: (list(outputs.values()), list(outputs)),
    lambda values, names: Outputs(zip(names or (), values, strict=True)),
    serialized_type_name="convert.Outputs",
    flatten_with_keys_fn=lambda outputs: (
        [(pytree.MappingKey(name), value) for name, value in outputs.items()],
        list(outputs),
    ),
)


def plain(value: Any, what: str, place: str = "", level: int = 0) -> Any:
    """A value out of JSON's types alone.

    Args:
        value: numbers, strings, lists, tuples and dicts of them.
        what: what it is called in the message.
        place: where in `what` it lies, as ``['a'][3]``.
        level: how many lists and dicts it lies in.

    Raises:
        StorageError: naming the place that holds something else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, "a string", what, place)
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise _unsaved(
                what, place, f"a whole number of {value.bit_length():,} bits", "save it as a string"
            )
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if not isinstance(value, Mapping | tuple | list):
        remedy = "use numbers, strings, lists and dicts with string keys"
        raise _unsaved(what, place, f"a value of type {type(value).__name__}", remedy)
    if level == _MOST_LEVELS:
        found = f"more than {_MOST_LEVELS} levels of lists and dicts"
        raise _unsaved(what, place, found, "is it part of itself? make it flatter")
    if isinstance(value, Mapping):
        return _plain_mapping(value, what, place, level + 1)
    rows = enumerate(value)
    return [plain(entry, what, f"{place}[{index}]", level + 1) for index, entry in rows]


def _plain_mapping(value: Mapping[Any, Any], what: str, place: str, level: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, entry in value.items():
        if not isinstance(key, str):
            found = f"the key {shortened(repr(key), 60)} of type {type(key).__name__}"
            raise _unsaved(what, place, found, "use strings for keys")
        key = _text(key, "a key", what, place)
        result[key] = plain(entry, what, f"{place}[{shortened(repr(key), 40)}]", level)
    if _is_float(result):
        raise _unsaved(what, place, f"{result}, which is how a file writes a float", "rename it")
    return result


def _text(value: str, kind: str, what: str, place: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"{kind} with a lone surrogate, {shortened(ascii(value), 60)}"
        raise _unsaved(what, place, found, "use characters that UTF-8 can write") from error
    return str(value)


def _unsaved(what: str, place: str, found: str, remedy: str) -> StorageError:
    where = f" at {shortened(place, 80)}" if place else ""
    return StorageError(f"{what} holds{where} {found}, which can't be saved; {remedy}")


def _is_float(value: dict[str, Any]) -> bool:
    return set(value) == {"float"} and value["float"] in ("inf", "-inf", "nan")


def unplain(value: Any) -> Any:
    """What `plain` was given, with lists for tuples."""
    if isinstance(value, list):
        return [unplain(entry) for entry in value]
    if isinstance(value, dict):
        if _is_float(value):
            return float(value["float"])
        return {key: unplain(entry) for key, entry in value.items()}
    return value


def take(document: Any, key: str, *kinds: type) -> Any:
    """An entry of a JSON object, of one of these types.

    Raises:
        StorageError: if it is missing or of another type.
    """
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(document, dict) or key not in document or type(value) not in kinds:
        raise StorageError(f"the entry {key!r} of the file is missing or damaged")
    return value


def dtype_name(dtype: torch.dtype) -> str:
    """float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: Any) -> torch.dtype:
    """torch.float32 for float32."""
    if not isinstance(name, str) or name not in _DTYPES:
        raise StorageError(f"{str(name)[:40]!r} is no data type; the file is damaged")
    return _DTYPES[name]


def write_tree(spec: pytree.TreeSpec) -> Any:
    """A tree of inputs or outputs; a class becomes its name and its fields."""
    if spec.is_leaf():
        return "*"
    children = [write_tree(child) for child in spec.children()]
    kind: Any = spec.type
    context = spec.context
    if kind in (list, tuple):
        return {kind.__name__: children}
    if kind is pytree.namedtuple or (isinstance(kind, type) and hasattr(kind, "_fields")):
        made: Any = context if isinstance(context, type) else kind
        return {"namedtuple": made.__name__, "fields": list(made._fields), "of": children}
    fields = context
    if isinstance(context, tuple | list) and context and isinstance(context[0], tuple | list):
        fields = context[0]  # a registered dataclass: names of what is given, then of what is None
    named = isinstance(fields, list | tuple) and all(isinstance(f, str) for f in fields)
    if not named or len(fields) != len(children):
        raise StorageError(
            f"the network takes or returns a {getattr(kind, '__name__', kind)}, which can't be "
            "saved; return tensors in lists, tuples, dicts or named tuples"
        )
    ordinary = {dict: "dict", OrderedDict: "ordered"}.get(kind, "outputs")
    return {ordinary: list(fields), "of": children}


def read_tree(data: Any) -> pytree.TreeSpec:
    """The tree that `write_tree` wrote."""
    return pytree.tree_structure(_example(data))


def _example(data: Any, depth: int = 0) -> Any:
    if data == "*":
        return 0
    if not isinstance(data, dict) or depth > _DEEPEST:
        raise StorageError("the form of the inputs or outputs is damaged")
    for kind in (list, tuple):
        if set(data) == {kind.__name__}:
            return kind(_example(e, depth + 1) for e in take(data, kind.__name__, list))
    children = [_example(entry, depth + 1) for entry in take(data, "of", list)]
    keys = set(data) - {"of"}
    if keys == {"namedtuple", "fields"}:
        fields, name = take(data, "fields", list), take(data, "namedtuple", str)
        if all(isinstance(f, str) for f in fields) and len(fields) == len(children):
            return _named_tuple(name, tuple(fields))(*children)
    mappings: dict[str, Any] = {"dict": dict, "ordered": OrderedDict, "outputs": Outputs}
    for key, mapping in mappings.items():
        names = data.get(key)
        if keys == {key} and isinstance(names, list) and all(isinstance(n, str) for n in names):
            if len(names) == len(children) == len(set(names)):
                return mapping(zip(names, children, strict=True))
    raise StorageError("the form of the inputs or outputs is damaged")


def _named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    # `namedtuple` checks that all are identifiers before it makes a class of them.
    return namedtuple(name, fields)


def write_report(report: Report | None, place: Mapping[Node, int]) -> Any:
    """What the conversion did; an operation's node by its place in the graph."""
    if report is None:
        return None
    data = _fields(report, "the report")
    # Files of networks with the batch first stay as they were before it could be another axis.
    if report.batch_axis == 0 and not report.mixes_batch:
        del data["batch_axis"], data["mixes_batch"]
    for name in _ROWS:
        data[name] = [_fields(row, "the report") for row in getattr(report, name)]
    data["operations"] = [
        _fields(o, "the report", skip="node") | {"node": place.get(o.node)}
        for o in report.operations
    ]
    return data


def _fields(value: Any, what: str, skip: str = "") -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(value)]
    # Lists of dataclasses are written by the caller.
    return {
        name: plain(getattr(value, name), what)
        for name in names
        if name not in (skip, *_ROWS, "operations", "settings")
    }


def write_settings(report: Report | None) -> Any:
    """What the conversion was asked for; None where that isn't known."""
    if report is None or report.settings is None:
        return None
    settings = report.settings.to_dict()
    # What is not used is left out.
    unset = "batch_axis dynamic modules budget_spikes budget_operations budget_energy".split()
    for name, unused in {**dict.fromkeys(unset), "spike_cost": 0.0}.items():
        if settings[name] == unused:
            del settings[name]
    return plain(settings, "the settings")


def read_settings(data: Any) -> ConversionSettings | None:
    """The settings that `write_settings` wrote; files of before they were kept have none."""
    if data is None:
        return None
    if not isinstance(data, dict):
        raise StorageError("the settings of the conversion are damaged")
    try:
        return ConversionSettings.from_dict(data)
    except ConversionError as error:
        raise StorageError(f"the settings of the conversion are damaged: {error}") from error


def read_report(
    data: Any, nodes: Sequence[Node], settings: ConversionSettings | None = None
) -> Report | None:
    """The report that `write_report` wrote; its operations point into the loaded graph.

    Args:
        data: what was written.
        nodes: of the loaded graph.
        settings: what the conversion was asked for; None where the file doesn't say.
    """
    if data is None:
        return None
    sites = [row_of(SiteRow, row) for row in take(data, "sites", list)]
    operations = []
    for row in take(data, "operations", list):
        place = row.get("node") if isinstance(row, dict) else None
        if type(place) is not int or not 0 <= place < len(nodes):
            raise StorageError("the report names an operation that isn't in the graph")
        operations.append(row_of(Operation, row | {"node": nodes[place]}))
    made = {
        "sites": sites,
        "operations": operations,
        # Older files don't know these.
        "corrections": [row_of(Correction, row) for row in data.get("corrections", [])],
        "output_errors": [row_of(OutputError, row) for row in data.get("output_errors", [])],
        "settings": settings,
    }
    report = row_of(Report, data | made)
    axes = (
        report.batch_axis.values() if isinstance(report.batch_axis, dict) else [report.batch_axis]
    )
    if not all(type(axis) is int for axis in axes):
        raise StorageError("the batch axis of the report is damaged")
    report.input_ranges = [_tuples(bounds) for bounds in report.input_ranges]
    for bounds in report.input_ranges:
        if bounds is not None and [isinstance(b, int | float) for b in bounds] != [True, True]:
            raise StorageError("the input ranges of the report are damaged")
    return report


_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": int | float,
    "bool": bool,
    "tuple": tuple,
    "list": list,
    "dict": dict,
}


def row_of(kind: type[_T], data: Any) -> _T:
    """A dataclass from an object with its fields."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    missing = dataclasses.MISSING
    required = {n for n, f in fields.items() if f.default is missing is f.default_factory}
    if not isinstance(data, dict) or not required <= set(data) <= set(fields):
        raise StorageError(f"a {kind.__name__} of the report is damaged")
    values = {}
    for name, value in data.items():
        declared = str(fields[name].type).partition("[")[0]
        value = value if isinstance(value, Node) else unplain(value)
        if declared == "tuple":
            value = _tuples(value)
            if not _of_words(value):
                raise StorageError(f"{name} of a {kind.__name__} of the report is damaged")
        flag = isinstance(value, bool) and declared != "bool"
        if declared in _TYPES and (flag or not isinstance(value, _TYPES[declared])):
            raise StorageError(f"{name} of a {kind.__name__} of the report is damaged")
        values[name] = value
    try:
        return kind(**values)
    except ValueError as error:
        raise StorageError(f"a {kind.__name__} of the report is damaged: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def _of_words(value: Any) -> bool:
    """Whether tuples hold words, numbers and None alone."""
    if isinstance(value, tuple):
        return all(map(_of_words, value))
    return value is None or isinstance(value, str | int | float)


def write_histogram(histogram: Histogram) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A histogram as numbers and as tensors of its cells, counts and mass (if it has one)."""
    numbers = {
        "level": histogram.level,
        "low": plain(histogram.low, "a histogram"),
        "high": plain(histogram.high, "a histogram"),
        "minus_infinite": histogram.minus_infinite,
        "sum": [str(histogram._sum.numerator), str(histogram._sum.denominator)],
        "first": int(histogram.cells[0]) if len(histogram.cells) else 0,
    }
    if histogram.relative:
        numbers["relative"] = True
    if histogram.hides:
        numbers["hides"] = True
    cells = torch.from_numpy(histogram.cells - numbers["first"])
    tensors = {"cells": _narrow(cells), "counts": _narrow(torch.from_numpy(histogram.counts))}
    if len(histogram.mass):
        tensors["mass"] = torch.from_numpy(histogram.mass)
    return numbers, tensors


def _narrow(values: Tensor) -> Tensor:
    return values.to(torch.int32) if values.numel() and int(values.max()) < 2**31 else values


def read_histogram(name: str, data: Any, tensors: Mapping[str, Tensor]) -> Histogram:
    """The histogram that `write_histogram` wrote."""
    cells, counts = (tensors[key].to("cpu", torch.int64).numpy() for key in ("cells", "counts"))
    mass = np.empty(0)
    if tensors.get("mass") is not None:
        mass = tensors["mass"].to("cpu", torch.float64).numpy()
        if mass.shape != counts.shape or not (np.isfinite(mass) & (mass >= 0)).all():
            raise StorageError(f"{name}: the histogram's mass is damaged")
    fraction = take(data, "sum", list)
    low, high = (unplain(take(data, key, int, float, dict)) for key in ("low", "high"))
    if cells.ndim != 1 or cells.shape != counts.shape or (np.diff(cells) <= 0).any():
        raise StorageError(f"{name}: the histogram's cells are damaged")
    level = take(data, "level", int)
    texts = [isinstance(t, str) and len(t) < 2000 for t in fraction]
    relative = data.get("relative", False)
    # A double has 64 bits to leave out, and exponents of 11 bits.
    lowest, highest = (0, 62) if relative else (-1100, 1100)
    if not isinstance(relative, bool) or not lowest <= level <= highest:
        raise StorageError(f"{name}: the histogram's level is damaged")
    if texts != [True, True] or (counts <= 0).any():
        raise StorageError(f"{name}: the histogram is damaged")
    numbers = [isinstance(v, int | float) for v in (low, high)]
    first = take(data, "first", int)
    if numbers != [True, True] or abs(first) >= 2**62:
        raise StorageError(f"{name}: the histogram's range is damaged")
    return Histogram(
        name,
        level,
        cells + first,
        counts,
        float(low),
        float(high),
        take(data, "minus_infinite", int),
        mass,
        Fraction(int(fraction[0]), int(fraction[1])),
        relative,
        data.get("hides") is True,
    )
