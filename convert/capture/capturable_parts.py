"""Which parts of a model can be captured where the whole can't, and the call that converts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from ..common.silence import silent
from ..graph.operators import Kind, is_aten, kind_of
from ..graph.regions import is_float, packet

# So many modules are tried, and so many are named.
_TRIED, _NAMED = 16, 8
# Operations that no neuron takes the place of.
_LINEAR = frozenset(Kind) - {Kind.POINTWISE, Kind.OTHER}
_LINEAR_NAMES = frozenset("add sub rsub mul div neg dropout flatten unflatten lift_fresh".split())

# The first call of every module: what it is, and its arguments by position and by name.
_Calls = dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]


def advice(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The call that converts the parts of a model that can be captured; empty without any.

    Args:
        model: a copy of the user's model; it is run once.
        args: example inputs by position.
        kwargs: example inputs by name.
    """
    parts = capturable(model, args, kwargs)
    if not parts:
        return ""
    names = ", ".join(f'"{name}"' for name in parts)
    return f"convert its parts: to_spiking(model, data, modules=[{names}])"


def capturable(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """The outermost modules that torch.export takes and that have a nonlinear function.

    Modules of a list that can all be captured are given as ``layers.*``.

    Args:
        model: a copy of the user's model; it is run once.
        args: example inputs by position.
        kwargs: example inputs by name.
    """
    search = _Search(_calls(model, args, kwargs))
    return list(search.below(model, ""))[:_NAMED]


class _Search:
    """Looks for modules from the outermost inwards.

    Args:
        calls: of all modules.
    """

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls
        self._left = _TRIED
        # What was found of a module, for its likes.
        self._known: dict[str, bool | None] = {}

    def below(self, module: nn.Module, prefix: str) -> Iterator[str]:
        """The names of modules inside another one."""
        children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
        found: list[str] = []
        whole = []
        for name, child in children:
            taken = self._takes(name, child)
            whole.append(bool(taken))
            if taken:
                found.append(name)
            elif taken is None:
                found += self.below(child, f"{name}.")
        listed = isinstance(module, nn.ModuleList | nn.ModuleDict)
        if listed and len(whole) > 1 and all(whole):
            yield f"{prefix}*"
        else:
            yield from found

    def _takes(self, name: str, module: nn.Module) -> bool | None:
        """Whether a module can be captured and spike; None where parts of it might."""
        if name not in self._calls:
            return None
        _, args, kwargs = self._calls[name]
        leaves = pytree.tree_leaves((args, kwargs))
        shapes = [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
        likes = f"{module} {shapes}"
        if likes in self._known:
            return self._known[likes]
        if not shapes or not any(True for _ in module.parameters()) or not self._left:
            return None
        self._left -= 1
        try:
            with torch.no_grad(), silent():
                graph = torch.export.export(module, args, kwargs).graph
            found: bool | None = _spikes(graph)
        except Exception:
            found = None
        self._known[likes] = found
        return found


def _calls(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Calls:
    """The first call of every module while the model runs, as far as it gets."""
    calls: _Calls = {}

    def note(name: str) -> Any:
        def noted(module: nn.Module, given: Any, named: Any) -> None:
            calls.setdefault(name, (module, given, named))

        return noted

    handles = [
        part.register_forward_pre_hook(note(name), with_kwargs=True)
        for name, part in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception:
        pass  # those that were reached before are tried
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _spikes(graph: Graph) -> bool:
    """Whether a graph has an operation that a neuron may take the place of."""
    nodes: Sequence[Node] = list(graph.nodes)
    return any(
        node.op == "call_function"
        and is_aten(node)
        and is_float(node)
        and kind_of(node) not in _LINEAR
        and packet(node).rstrip("_") not in _LINEAR_NAMES
        for node in nodes
    )
