"""Which operators a saved graph may hold: functional ones, by rule, and arithmetic on sizes.

A file names an operator by a string; only strings that this module resolves become calls: those
that PyTorch tags as pointwise or core, and those that the table in `graph.operators` lets be
saved. All must pass the rule in `_functional`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ..graph.operators import Kind, named

# Uninitialised memory, values read back to Python, and gradients have no place in a network.
_BARRED = re.compile(
    r"empty|_backward$|^_local_scalar_dense$|^nonzero|dropout|^as_strided|^from_file$"
)
_TYPES = frozenset(
    ["Tensor", "number", "int", "float", "bool", "str", "Device"]
    + [f"List[{kind}]" for kind in ("Tensor", "Optional[Tensor]", "int", "float", "bool")]
)
_ATEN = re.compile(r"aten\.([a-zA-Z_]\w*)\.([a-zA-Z_]\w*)", re.ASCII)
_OTHER = re.compile(r"([a-zA-Z_]\w*)\.([a-zA-Z_]\w*)\.([a-zA-Z_]\w*)", re.ASCII)

_SIZES: dict[str, Callable[..., Any]] = {
    f"operator.{name}": getattr(operator, name)
    for name in (
        "add sub mul floordiv truediv mod neg pow abs eq ne lt le gt ge and_ or_ not_ getitem"
    ).split()
} | {
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_float": torch.sym_float,
    "torch.sym_int": torch.sym_int,
    "torch.sym_ite": torch.sym_ite,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_not": torch.sym_not,
}
_SIZE_NAMES = {function: name for name, function in _SIZES.items()}


def name_of(target: Any) -> str:
    """What a graph's operator is called in a file, whether or not it is allowed."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._opname}.{target._overloadname}"
    return _SIZE_NAMES.get(target) or str(getattr(target, "__name__", target))


def resolve(name: str) -> Callable[..., Any] | None:
    """The operator of that name, None if there is none or it isn't allowed."""
    if name in _SIZES:
        return _SIZES[name]
    return _aten(name) if _ATEN.fullmatch(name) else _registered(name)


def _registered(name: str) -> Callable[..., Any] | None:
    """An operator outside of ATen, which a user has registered as one that can be saved."""
    match = _OTHER.fullmatch(name)
    row = None if match is None else named(f"{match[1]}::{match[2]}")
    if match is None or row is None or not row.saved:
        return None
    overload = getattr(getattr(getattr(torch.ops, match[1]), match[2]), match[3], None)
    if not isinstance(overload, torch._ops.OpOverload) or name_of(overload) != name:
        return None
    return overload if _functional(overload) else None


@cache
def _aten(name: str) -> Callable[..., Any] | None:
    match = _ATEN.fullmatch(name)
    assert match is not None
    try:
        overload = getattr(getattr(torch.ops.aten, match[1]), match[2])
    except AttributeError:
        return None
    if not isinstance(overload, torch._ops.OpOverload) or name_of(overload) != name:
        return None
    return overload if _functional(overload) and _chosen(overload) else None


def _functional(overload: torch._ops.OpOverload) -> bool:
    """Whether it neither writes to an argument, draws random numbers, nor takes odd arguments."""
    schema = overload._schema
    types = [str(a.type) for a in (*schema.arguments, *schema.returns)]
    plain = (re.sub(r"^Optional\[(.*)\]$", r"\1", kind) for kind in types)
    return (
        not schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in overload.tags
        and all(kind in _TYPES or kind.startswith("Optional[List[") for kind in plain)
    )


def _chosen(overload: torch._ops.OpOverload) -> bool:
    row = named(overload._opname)
    if row is not None and row.linear:
        return row.saved
    if _BARRED.search(overload._opname):
        return False
    if torch.Tag.pointwise in overload.tags or torch.Tag.core in overload.tags:
        return True
    # A pointwise one without the tag takes numbers, not tensors.
    return row is not None and row.saved and row.kind is not Kind.POINTWISE
