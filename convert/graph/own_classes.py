"""Classes of a user's own that hold tensors: as trees for torch, and the same class again."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import CaptureError

_PLAIN = (
    Tensor | str | bytes | bool | int | float | complex | None | torch.dtype | torch.device
    | torch.SymInt | torch.SymFloat | torch.SymBool | range | slice
)  # fmt: skip


def register(value: Any) -> None:
    """Makes torch see the tensors inside dataclasses and subclasses of dict and list.

    Their class is registered with torch's trees and stays so: outputs are put into it again at
    every call.
    """
    for leaf in pytree.tree_leaves(value):
        kind = type(leaf)
        if not isinstance(leaf, _PLAIN) and kind not in pytree.SUPPORTED_NODES:
            if _registered(leaf, kind):
                register(leaf)


def check_outputs(result: Any) -> None:
    """Refuses outputs whose tensors nobody can see.

    Raises:
        CaptureError: naming the class, and what to return instead.
    """
    for leaf in pytree.tree_leaves(result):
        if not isinstance(leaf, _PLAIN):
            raise CaptureError(
                f"forward returns a {type(leaf).__name__}, into which torch can't see; return "
                "tensors in tuples, lists, dicts or a dataclass"
            )


def same_form(a: pytree.TreeSpec, b: pytree.TreeSpec) -> bool:
    """Whether two trees differ at most in the classes that hold fields of the same names."""
    if a.num_children != b.num_children or a.is_leaf() != b.is_leaf():
        return False
    if _fields(a) != _fields(b):
        return False
    return all(map(same_form, a.children(), b.children()))


def _fields(spec: pytree.TreeSpec) -> Any:
    """The names of what a node of a tree holds; its class where it has no names."""
    context = spec.context
    if hasattr(context, "_fields"):  # a named tuple's class
        return list(context._fields)
    if isinstance(context, tuple | list) and context and isinstance(context[0], tuple | list):
        context = context[0]  # a registered dataclass: what is given, then what is None
    return list(context) if isinstance(context, tuple | list) else spec.type


def _registered(value: Any, kind: Any) -> bool:
    """Registers a class, if its objects can be taken apart and put together again."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, dict):
        if not _rebuilds(value, kind):
            return False

        def apart(made: Any) -> tuple[list[Any], Any]:
            return list(made.values()), list(made)

        pytree.register_pytree_node(
            kind,
            apart,
            lambda values, keys: _mapping(kind, dict(zip(keys or (), values, strict=True))),
            serialized_type_name=name,
            flatten_with_keys_fn=lambda made: (
                [(pytree.MappingKey(k), v) for k, v in made.items()],
                list(made),
            ),
        )
        return True
    if dataclasses.is_dataclass(kind):
        make: Any = kind
        try:
            again = make(**{f.name: getattr(value, f.name) for f in dataclasses.fields(kind)})
            torch.export.register_dataclass(make, serialized_type_name=name)
        except Exception:
            return False
        return type(again) is kind
    if isinstance(value, list):
        pytree.register_pytree_node(
            kind,
            lambda made: (made[:], None),
            lambda values, _: kind(values),
            serialized_type_name=name,
        )
        return True
    return False


def _mapping(kind: Any, named: dict[Any, Any]) -> Any:
    """A subclass of dict with these values: a dataclass takes them by name."""
    make: Any = kind
    return make(**named) if dataclasses.is_dataclass(kind) else make(OrderedDict(named))


def _rebuilds(value: dict[Any, Any], kind: type) -> bool:
    try:
        again: Any = _mapping(kind, dict(value))
        return list(again) == list(value) and type(again) is kind
    except Exception:
        return False
