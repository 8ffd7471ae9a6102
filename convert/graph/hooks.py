"""Forward hooks of a model's copy: which of them change values, and which only look."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.nn.modules.module as torch_module
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..common.messages import first_line
from ..errors import CaptureError
from .fidelity import is_tensor

_FORWARD = ("_forward_pre_hooks", "_forward_hooks")
# Sets of the keys of hooks with options.
_OPTIONS = (
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_GLOBAL = (
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
)
# So many are named in a message.
_NAMED = 3


@dataclass(eq=False)
class Hook:
    """A forward hook of a module.

    Args:
        module: on which it is.
        path: the module's, empty for the model itself.
        kind: the attribute of the module that holds it.
        key: its key there.
        function: what is called.
        changes: whether it returned or wrote other values.
        computed: tensors that it gave to its module, such as its weight.
    """

    module: nn.Module
    path: str
    kind: str
    key: int
    function: Callable[..., Any]
    changes: bool = False
    computed: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        kind = "pre-forward" if self.kind == _FORWARD[0] else "forward"
        return f"the {kind} hook {name_of(self.function)} of {self.path or 'the model itself'}"

    def watch(self) -> None:
        """Notes from now on what the hook does."""
        vars(self.module)[self.kind][self.key] = self._watched

    def unwatch(self) -> None:
        """Puts the hook itself back."""
        vars(self.module)[self.kind][self.key] = self.function

    def remove(self) -> None:
        """Takes the hook from its module."""
        for kind in (self.kind, *_OPTIONS):  # torch gives no key twice
            vars(self.module).get(kind, {}).pop(self.key, None)

    def fix(self) -> None:
        """Makes buffers of the tensors that the hook computed: they move with their module."""
        for name in self.computed & vars(self.module).keys():
            self.module.register_buffer(name, vars(self.module).pop(name).detach())

    def _watched(self, module: nn.Module, *given: Any) -> Any:
        before = [leaf.detach().clone() for leaf in _tensors(given)]
        held = {name: (tensor, tensor.detach().clone()) for name, tensor in _own(module)}
        try:
            result = self.function(module, *given)
        except Exception as error:
            raise CaptureError(
                f"{self} raises on the calibration batch ({first_line(error)}); mend or remove it"
            ) from error
        replaced = given[-1] if self.kind == _FORWARD[1] else given
        if result is not None and not _one_by_one(result, replaced):
            self.changes = True
        self.computed |= {
            name
            for name, tensor in _own(module)
            if name not in held or held[name][0] is not tensor or not _equal(held[name][1], tensor)
        }
        self.changes |= not all(map(_equal, before, _tensors(given)))
        places = {tensor.device for tensor in _tensors(given)}
        moved = {tensor.device for tensor in _tensors(result)} - places
        if places and moved:
            raise CaptureError(
                f"{self} moves values from {places.pop()} to {moved.pop()}; remove it, a network "
                "is converted on one device"
            )
        return result


def name_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        function = function.func
    name = str(getattr(function, "__qualname__", type(function).__name__))
    if name.endswith("<lambda>") and hasattr(function, "__code__"):
        code = function.__code__
        return f"lambda ({Path(code.co_filename).name[-30:]}:{code.co_firstlineno})"
    return name[-60:]


def _own(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors that a module itself holds: parameters, buffers, plain attributes."""
    held = vars(module)
    places = (held["_parameters"], held["_buffers"], held)
    return [(n, t) for place in places for n, t in place.items() if is_tensor(t)]


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if is_tensor(leaf)]


def _one_by_one(a: Any, b: Any) -> bool:
    """Whether two trees hold the same objects."""
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return len(left) == len(right) and all(x is y for x, y in zip(left, right, strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def forward_hooks(model: nn.Module) -> list[Hook]:
    """All forward hooks and pre-forward hooks of a model's modules."""
    return [
        Hook(module, path, kind, key, function)
        for path, module in model.named_modules()
        for kind in _FORWARD
        for key, function in vars(module).get(kind, {}).items()
    ]


def drop_other_hooks(model: nn.Module) -> None:
    """Takes from a model all hooks that aren't called in forward."""
    for module in model.modules():
        for name, held in vars(module).items():
            if name.endswith("_hooks") and isinstance(held, dict) and name not in _FORWARD:
                held.clear()


def watch(hooks: list[Hook], run: Callable[[], Any]) -> None:
    """Notes what each hook does in one run.

    Raises:
        CaptureError: for a hook that raises, or moves values to another device.
    """
    for hook in hooks:
        hook.watch()
    try:
        run()
    finally:
        for hook in hooks:
            hook.unwatch()


def settle(
    model: nn.Module, agrees: Callable[[], bool], run: Callable[[], Any], notes: list[str]
) -> list[Hook]:
    """Takes out hooks that only look; returns those that stay, to be captured.

    A hook that computes its module's weight (weight norm, pruning) only looks, too: once it has
    run, the module holds its current weight.

    Args:
        model: the copy of a model.
        agrees: whether the copy's outputs are the model's.
        run: runs the copy once.
        notes: gets what was done.

    Raises:
        CaptureError: for a hook that raises, or moves values to another device.
    """
    hooks = forward_hooks(model)
    if not hooks:
        return []
    watch(hooks, run)
    looking = [hook for hook in hooks if not hook.changes]
    kept = [
        (held, dict(held))
        for module in model.modules()
        for kind in (*_FORWARD, *_OPTIONS)
        if (held := vars(module).get(kind))
    ]
    for hook in looking:
        hook.remove()
    if looking and not agrees():
        # What they collect is read in forward or by other hooks.
        for held, saved in kept:
            held.clear()
            held.update(saved)
        looking = []
    for hook in looking:
        hook.fix()
    _tell(hooks, looking, notes)
    return [hook for hook in hooks if hook not in looking]


def _tell(hooks: list[Hook], looking: list[Hook], notes: list[str]) -> None:
    computing = [hook for hook in looking if hook.computed]
    idle = [hook for hook in looking if not hook.computed]
    staying = [hook for hook in hooks if hook not in looking]
    for found, text in (
        (computing, "weights that hooks compute were taken as they are now"),
        (idle, "hooks that only look at values were left out"),
        (staying, "what hooks do to values is part of the network"),
    ):
        if found:
            notes.append(f"{text}: {named(found)}")


def named(hooks: Iterable[Hook]) -> str:
    """The hooks in words, the first few of many."""
    words = [str(hook) for hook in hooks]
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


_lock = threading.Lock()
_blocks = 0
_saved: list[tuple[dict[int, Any], dict[int, Any]]] = []


def global_hooks() -> list[Callable[..., Any]]:
    """What torch calls in every module's forward."""
    return [f for name in _GLOBAL[:2] for f in getattr(torch_module, name, {}).values()]


@contextlib.contextmanager
def without_global_hooks() -> Iterator[None]:
    """No hooks that torch calls for every module, which would see what isn't the user's."""
    global _blocks
    with _lock:
        _blocks += 1
        if _blocks == 1:
            for name in _GLOBAL:
                held = getattr(torch_module, name, {})
                _saved.append((held, dict(held)))
                held.clear()
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                for held, saved in _saved:
                    held.update(saved)
                _saved.clear()
