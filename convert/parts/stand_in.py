"""A module that stands in the place of another one inside a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from .part_calls import PartCall, called_with, forward_of


class StandIn(nn.Module):
    """Is called where the model calls a module, and gives that module's attributes.

    Args:
        replaced: the module.
    """

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        self.replaced = replaced
        self._forward_takes: inspect.Signature | None = None
        self.training = replaced.training

    def call_of(self, args: Any, kwargs: Any) -> PartCall:
        """A call of the module, in the one way."""
        if self._forward_takes is None:
            module = self.replaced
            while isinstance(module, StandIn):
                module = module.replaced
            self._forward_takes = forward_of(module)
        return called_with(self._forward_takes, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("replaced"), name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_forward_takes": None}

    # Python looks these up in the class.

    def __bool__(self) -> bool:
        return bool(self.replaced)

    def __len__(self) -> int:
        return len(self.replaced)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.replaced)  # type: ignore[call-overload]

    def __getitem__(self, key: Any) -> Any:
        return self.replaced[key]  # type: ignore[index]


def place(model: nn.Module, paths: Iterable[str], module: nn.Module) -> None:
    """Puts a module in the place of others.

    Args:
        model: the whole; changed.
        paths: the names of these others.
        module: what stands there then.
    """
    for path in paths:
        parent, _, name = path.rpartition(".")
        owner = model.get_submodule(parent)
        owner._modules[name] = module


def owners(model: nn.Module, paths: Iterable[str]) -> list[nn.Module]:
    """The modules at these names."""
    return [model.get_submodule(path) for path in paths]
