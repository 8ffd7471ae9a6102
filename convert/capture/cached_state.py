"""What forward keeps on the modules from call to call: shapes and grids of the last batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_TORCHS = frozenset({"_parameters", "_buffers", "_modules", "training", "forward"})
# Where a module keeps what may depend on a batch.
_HOLDERS = ("attributes", "buffers")
_Held = dict[str, dict[str, Any]]


class CachedState:
    """The attributes of a model's modules, before and after a call of its copy.

    What a call changed and depends on the batch is a cache. An export must find it empty, so that
    forward makes it anew inside the graph, and not the one of another batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._before = self._held()
        self._empty: list[_Held] = [{holder: {} for holder in _HOLDERS} for _ in self._modules]

    def called(self, sizes: Collection[int]) -> None:
        """Notes what a call changed; its images and its lengths that vary are `sizes`."""
        self._empty = [
            {holder: _caches(before[holder], after[holder], sizes) for holder in _HOLDERS}
            for before, after in zip(self._before, self._held(), strict=True)
        ]

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Inside the block the modules are as before any call, their caches empty."""
        now = self._held()
        try:
            self._put(
                [
                    held | {holder: held[holder] | empty[holder] for holder in _HOLDERS}
                    for held, empty in zip(self._before, self._empty, strict=True)
                ]
            )
            yield
        finally:
            self._put(now)

    def _held(self) -> list[_Held]:
        return [
            {
                "attributes": {n: v for n, v in vars(module).items() if not _is_torchs(n)},
                "buffers": dict(module._buffers),
                "hooks": {n: dict(v) for n, v in vars(module).items() if _is_hooks(n, v)},
            }
            for module in self._modules
        ]

    def _put(self, held: list[_Held]) -> None:
        for module, kept in zip(self._modules, held, strict=True):
            for name in [n for n in vars(module) if not _is_torchs(n)]:
                del vars(module)[name]
            vars(module).update(kept["attributes"])
            module._buffers.clear()
            module._buffers.update(kept["buffers"])
            for name, hooks in kept["hooks"].items():
                vars(module)[name].clear()
                vars(module)[name].update(hooks)


def _is_hooks(name: str, value: Any) -> bool:
    return name.endswith("_hooks") and isinstance(value, dict)


def _is_torchs(name: str) -> bool:
    return name in _TORCHS or name.endswith("_hooks")


def _caches(
    before: dict[str, Any], after: dict[str, Any], sizes: Collection[int]
) -> dict[str, Any]:
    """What a call changed that depends on the sizes of its batch, as no batch leaves it."""
    return {
        name: _empty(before[name])
        for name, value in after.items()
        if name in before and _cached(before[name], value, sizes)
    }


def _cached(before: Any, after: Any, sizes: Collection[int]) -> bool:
    """Whether a call with a batch of these sizes left another shape in place of one."""
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return before is not after and before.shape != after.shape
    if isinstance(before, tuple | list) and isinstance(after, tuple | list):
        return len(before) > 0 and list(map(str, before)) != list(map(str, after))
    counted = type(before) is int and type(after) is int
    return counted and before != after and after in sizes


def _empty(value: Any) -> Any:
    """What no cache of a batch is equal to."""
    if isinstance(value, Tensor):
        return value.new_empty((0,) * max(value.dim(), 1))
    if isinstance(value, torch.Size):
        return torch.Size()
    return type(value)() if type(value) in (tuple, list) else -1 if type(value) is int else None
