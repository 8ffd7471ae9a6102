"""How a network is called, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..calls.batch_bounds import BatchBounds
from ..calls.batch_layout import Layout
from ..calls.call_signature import Signature
from ..calls.input_shapes import TensorInput
from ..calls.size_bounds import SizeBounds
from ..calls.sizes import Size
from ..errors import StorageError
from .record_json import (
    dtype_name,
    dtype_of,
    plain,
    read_tree,
    take,
    unplain,
    write_tree,
)


def write_signature(signature: Signature) -> dict[str, Any]:
    """How a network is called."""
    inputs = [
        None
        if i is None
        else {"name": i.name, "shape": list(i.shape), "dtype": dtype_name(i.dtype)}
        | ({} if i.rows is None else {"rows": i.rows})
        for i in signature.inputs
    ]
    bounds = signature.bounds
    limits = {} if bounds is None else {"batches": dataclasses.asdict(bounds)}
    written = {
        "names": list(signature.names),
        "positional": signature.positional,
        **limits,
        "inputs": inputs,
        "constants": plain(signature.constants, "an input that isn't a tensor"),
        "takes": write_tree(signature.in_spec),
        "returns": write_tree(signature.out_spec),
    }
    # What isn't there says that every output is [N, ...], as it was in files of before.
    if signature.outputs:
        written["outputs"] = [
            None if layout is None else dataclasses.asdict(layout) for layout in signature.outputs
        ]
    if signature.mixes:
        written["mixes"] = True
    if signature.varying:
        written["varying"] = [dataclasses.asdict(size) for size in signature.varying]
    return written


def read_signature(data: Any) -> Signature:
    """The signature that `write_signature` wrote."""
    names, inputs = take(data, "names", list), take(data, "inputs", list)
    constants = unplain(take(data, "constants", list))
    takes, returns = read_tree(take(data, "takes", dict)), read_tree(data.get("returns"))
    fits = len(inputs) == len(constants) == takes.num_leaves
    if not fits or not all(isinstance(name, str) for name in names):
        raise StorageError("the inputs of the network are damaged")
    # Files from before networks of several inputs don't say.
    positional = data.get("positional", 1)
    if type(positional) is not int or not 0 <= positional <= max(len(names), 1):
        raise StorageError("the number of inputs of the network is damaged")
    read = tuple(_read_input(i) for i in inputs)
    outputs, mixes = data.get("outputs", []), data.get("mixes", False)
    if type(outputs) is not list or len(outputs) not in (0, returns.num_leaves):
        raise StorageError("the outputs of the network are damaged")
    if type(mixes) is not bool:
        raise StorageError("the entry 'mixes' of the file is damaged")
    return Signature(
        tuple(names),
        read,
        tuple(constants),
        takes,
        returns,
        positional=positional,
        outputs=tuple(_read_layout(layout) for layout in outputs),
        mixes=mixes,
        bounds=_read_bounds(data.get("batches")),
        varying=_read_sizes(data.get("varying", []), read),
    )


def _read_layout(data: Any) -> Layout | None:
    """Where the images lie in an output."""
    if data is None:
        return None
    axis, flags = take(data, "axis", int, type(None)), ("mixes", "varies")
    before, after = (take(data, key, int) for key in ("before", "after"))
    if not 0 <= (axis or 0) < 64 or not 0 < before < 2**31 or not 0 < after < 2**31:
        raise StorageError("the outputs of the network are damaged")
    mixes, varies = (take(data, key, bool) for key in flags)
    return Layout(axis, before, after, mixes, varies)


def _read_bounds(data: Any) -> BatchBounds | None:
    return None if data is None else BatchBounds(*_bounds(data))


def _bounds(data: Any) -> tuple[int, int | None, int, str]:
    """The fewest, the most, what all are a multiple of, and who says so."""
    least, divisor = take(data, "least", int), take(data, "divisor", int)
    most, asked = data.get("most"), take(data, "asked", str)
    numbers = [least, divisor] + ([] if most is None else [most])
    if not all(type(n) is int and 1 <= n < 2**31 for n in numbers):
        raise StorageError("the sizes of a batch that the network takes are damaged")
    return least, most, divisor, asked[:200]


def _read_sizes(data: Any, inputs: Sequence[TensorInput | None]) -> tuple[Size, ...]:
    """The lengths that vary, each of which an input has."""
    if not isinstance(data, list):
        raise StorageError("the lengths that vary are damaged")
    sizes = []
    for row in data:
        name, example = take(row, "name", str), take(row, "example", int)
        bounds = SizeBounds(*_bounds(take(row, "bounds", dict)))
        if not name.isidentifier() or not 1 <= example < 2**31 or not bounds.holds(example):
            raise StorageError(f"the length {name[:40]!r} that varies is damaged")
        longest = take(row, "longest", int)
        if not 0 <= longest < 2**31:
            raise StorageError(f"the length {name[:40]!r} that varies is damaged")
        sizes.append(Size(name, example, bounds, longest))
    used = {n for i in inputs if i is not None for n in i.shape if isinstance(n, str)}
    if used != {size.name for size in sizes} or len(used) != len(sizes):
        raise StorageError("the lengths that vary aren't those of the inputs")
    return tuple(sizes)


def _read_input(data: Any) -> TensorInput | None:
    if data is None:
        return None
    shape, rows = take(data, "shape", list), data.get("rows")
    if not all(n is None or type(n) is str or (type(n) is int and 0 <= n < 2**31) for n in shape):
        raise StorageError(f"the input shape {str(shape)[:80]} is damaged")
    if rows is not None and (type(rows) is not int or not 0 < rows < 2**62):
        raise StorageError(f"the table of {str(rows)[:40]} rows is damaged")
    return TensorInput(take(data, "name", str), tuple(shape), dtype_of(data.get("dtype")), rows)
