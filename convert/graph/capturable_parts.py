"""Which parts of a model can be captured, where the whole can't."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# So many parts are tried, and so many are named.
_TRIED, _NAMED = 8, 4


def capturable(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """The names of submodules that torch.export takes, on the inputs that they get.

    Args:
        model: a copy of the user's model; it is run once.
        args: example inputs by position.
        kwargs: example inputs by name.
    """
    calls: dict[str, tuple[nn.Module, Any, Any]] = {}

    def note(name: str) -> Any:
        def noted(module: nn.Module, given: Any, named: Any) -> None:
            calls.setdefault(name, (module, given, named))

        return noted

    parts = list(model.named_children())
    parts += [
        (f"{name}.{inner}", part)
        for name, holder in parts
        if isinstance(holder, nn.ModuleList | nn.ModuleDict)
        for inner, part in holder.named_children()
    ]
    handles = [part.register_forward_pre_hook(note(name), with_kwargs=True) for name, part in parts]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception:
        pass  # those that were reached before are tried
    finally:
        for handle in handles:
            handle.remove()
    weighed = sorted(calls, key=lambda name: -_size(calls[name][0]))
    taken = [name for name in weighed[:_TRIED] if _size(calls[name][0]) and _takes(*calls[name])]
    return taken[:_NAMED]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _takes(module: nn.Module, args: Any, kwargs: Any) -> bool:
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
        return False
    try:
        torch.export.export(module, args, kwargs)
    except Exception:
        return False
    return True
