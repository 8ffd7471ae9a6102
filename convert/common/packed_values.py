"""Values as bytes and back, exactly: numbers, texts, containers, tensors, arrays, known classes.

Nothing in the bytes is executed or imported: an object is one of the classes that the reader names.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import ResumeError

_MARK = b"FSKEPT1\n"
# Mark, SHA-256 of what follows it, bytes of JSON.
_HEADER = struct.Struct("<8s32sQ")

# Classes that may occur in a value.
Classes = Sequence[type]


def packed(value: Any, classes: Classes = ()) -> bytes:
    """The bytes of a value.

    Args:
        value: numbers, strings, None, lists, tuples, dicts, sets, counters, fractions, tensors,
            arrays of numbers, and objects of the classes, whose attributes are kept.
        classes: what objects may be of.

    Raises:
        TypeError: for anything else.
    """
    tensors: list[Tensor] = []
    tree = _written(value, {kind.__name__: kind for kind in classes}, tensors)
    text = json.dumps(tree, allow_nan=False, separators=(",", ":")).encode()
    content = text + safetensors.torch.save({str(i): t for i, t in enumerate(tensors)})
    return _HEADER.pack(_MARK, hashlib.sha256(content).digest(), len(text)) + content


def unpacked(content: bytes, classes: Classes = (), where: str = "the value") -> Any:
    """What `packed` was given; tensors are on the device that they were on.

    Args:
        content: the bytes.
        classes: what objects may be of.
        where: what the bytes are called in a message.

    Raises:
        ResumeError: if they were damaged, or hold an object of another class.
    """
    damaged = ResumeError(f"{where} is damaged; delete it and run again, its stage is made anew")
    if len(content) < _HEADER.size:
        raise damaged
    mark, digest, size = _HEADER.unpack_from(content)
    body = content[_HEADER.size :]
    if mark != _MARK or hashlib.sha256(body).digest() != digest:
        raise damaged
    try:
        # A view into bytes isn't aligned, and kernels may round otherwise there.
        found = {k: t.clone() for k, t in safetensors.torch.load(body[size:]).items()}
        known = {kind.__name__: kind for kind in classes}
        return _read(json.loads(body[:size]), known, found)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged from error


def _written(value: Any, known: dict[str, type], tensors: list[Tensor]) -> Any:
    """JSON of a value; its tensors are added to a list."""

    def rows(values: Any) -> list[Any]:
        return [_written(each, known, tensors) for each in values]

    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return rows(value)
    if kind in (tuple, torch.Size):
        return {"tuple": rows(value)}
    if kind in (dict, Counter):
        return {kind.__name__: [rows(pair) for pair in value.items()]}
    if kind in (set, frozenset):
        return {kind.__name__: rows(sorted(value))}
    if kind is Fraction:
        return {"fraction": [hex(value.numerator), hex(value.denominator)]}
    if isinstance(value, Tensor):
        tensors.append(value.detach().to("cpu", copy=True).contiguous())
        return {"tensor": len(tensors) - 1, "device": str(value.device)}
    if isinstance(value, np.ndarray | np.generic):
        tensors.append(torch.from_numpy(np.array(value, order="C")))
        return {"array" if isinstance(value, np.ndarray) else "number": len(tensors) - 1}
    if known.get(kind.__name__) is not kind:
        raise TypeError(f"a value of type {kind.__name__} can't be kept")
    if issubclass(kind, enum.Enum):
        return {"enum": kind.__name__, "value": value.value}
    fields = value._asdict() if hasattr(value, "_asdict") else vars(value)
    return {"object": kind.__name__, "fields": [rows(pair) for pair in fields.items()]}


def _read(tree: Any, known: dict[str, type], tensors: dict[str, Tensor]) -> Any:
    """The value that `_written` wrote."""

    def rows(values: Any) -> list[Any]:
        return [_read(each, known, tensors) for each in values]

    if isinstance(tree, list):
        return rows(tree)
    if not isinstance(tree, dict):
        return tree
    (name, held), *more = tree.items()
    if name == "float":
        return float(held)
    if name in _CONTAINERS:
        return _CONTAINERS[name](rows(held))
    if name == "fraction":
        return Fraction(*(int(number, 16) for number in held))
    if name == "tensor":
        return tensors[str(held)].to(tree["device"])
    if name in ("array", "number"):
        array = tensors[str(held)].numpy()
        return array if name == "array" else array[()]
    kind: Any = known[held]
    (_, inner) = more[0]
    if name == "enum":
        return kind(inner)
    fields = dict(rows(inner))
    if hasattr(kind, "_make"):
        return kind(**fields)
    made = kind.__new__(kind)
    vars(made).update(fields)
    return made


_CONTAINERS: dict[str, Any] = {
    "tuple": tuple,
    "dict": dict,
    # Pairs, not what is to be counted.
    "Counter": lambda pairs: Counter(dict(pairs)),
    "set": set,
    "frozenset": frozenset,
}
