"""The modules of a network, listed once, and whether they are still the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import is_ as _is
from typing import Any

import torch
from torch import nn


class ModuleTree:
    """What networks consist of.

    Args:
        roots: the networks.

    Attributes:
        modules: they, and every module below.
    """

    def __init__(self, *roots: nn.Module) -> None:
        self.modules = list({id(module): module for module in _below(roots)}.values())
        self._children = [
            (module, dict(module._modules)) for module in self.modules if module._modules
        ]

    def same(self) -> bool:
        """Whether no module was added, taken out, or put in another's place since."""
        for module, before in self._children:
            now = module._modules
            if len(now) != len(before) or not all(map(_is, now.values(), before.values())):
                return False
            if now.keys() != before.keys():
                return False
        return True

    def followed(self, learning: bool) -> bool:
        """Whether a module has a hook or, with `learning`, a tensor that takes a gradient."""
        for module in self.modules:
            if (
                module._forward_hooks
                or module._forward_pre_hooks
                or module._backward_hooks
                or module._backward_pre_hooks
            ):
                return True
        return learning and any(map(_learns, self.modules))


def _below(roots: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Every module below; quicker than `Module.modules`, and one may come twice."""
    waiting: list[nn.Module | None] = list(roots)
    while waiting:
        module = waiting.pop()
        if module is not None:
            yield module
            waiting += module._modules.values()


class TensorReader:
    """Reads tensors of a network, as they are at each call.

    Args:
        network: the root, whose modules stay the same ones.
        paths: of the tensors.
    """

    def __init__(self, network: nn.Module, paths: Iterable[str]) -> None:
        self.network, self._paths = network, list(paths)
        self._places = self._found()

    def _found(self) -> list[tuple[nn.Module, str, str]]:
        return [self._place(*path.rpartition(".")[::2]) for path in self._paths]

    def _place(self, owner: str, name: str) -> tuple[nn.Module, str, str]:
        """The module that owns a tensor, where it keeps it, and its name there."""
        module: Any = self.network
        for part in owner.split(".") if owner else ():
            module = getattr(module, part)
        for kind in ("__dict__", "_parameters", "_buffers"):
            if name in getattr(module, kind, {}):
                return module, kind, name
        return module, "", name

    def read(self) -> list[Any]:
        """The tensors, in the order of their paths."""
        try:
            return [_at(*place) for place in self._places]
        except KeyError:
            # A buffer became a parameter, or something else moved.
            self._places = self._found()
            return [_at(*place) for place in self._places]


def _at(module: nn.Module, kind: str, name: str) -> Any:
    return getattr(module, kind)[name] if kind else getattr(module, name)


def _learns(module: nn.Module) -> bool:
    """Whether a tensor of a module takes a gradient."""
    tensors: Iterable[torch.Tensor | None] = (
        *module._parameters.values(),
        *module._buffers.values(),
    )
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)
