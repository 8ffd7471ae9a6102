"""What a model and its hooks hold, noted before they run and put back afterwards."""

from __future__ import annotations

import contextlib
import dis
import functools
import random
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# So many objects are looked at, the nearest first; a data set that hangs on a model has more.
_MOST_OBJECTS = 100_000
# Bytes of tensors that are cloned because no copy of the model holds them.
_MOST_BYTES = 2**28
_CONTAINERS = (list, dict, set, deque)
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, types.ModuleType)
# What Python and torch bring may belong to other threads (queues, locks, loaders with workers).
_FOREIGN = frozenset({"torch", "convert", "tqdm", *sys.stdlib_module_names}) - {"__main__"}


class KeptState:
    """Attributes, containers, closures and tensors that can be reached from some objects.

    Args:
        roots: from where to look.
        copies: copies of tensors by the id of the original, as `copy.deepcopy` notes them; what is
            missing there is cloned. With None, no tensor is noted.
    """

    def __init__(self, roots: Iterable[Any], copies: Mapping[int, Any] | None = None) -> None:
        self._copies = copies
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._cells: list[tuple[Any, Any]] = []
        self._bindings: list[tuple[dict[str, Any], str, Any]] = []
        self._tensors: list[_KeptTensor] = []
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        self._bytes = 0
        self._note(roots)

    def put_back(self, *, tensors: bool = True) -> None:
        """Makes everything what it was.

        Args:
            tensors: False leaves tensors alone whose record is a copy, which may have changed.
        """
        for found, saved in self._dicts:
            if not _same(found, saved):
                found.clear()
                found.update(saved)
        for container, saved_items in self._containers:
            _refill(container, saved_items)
        for cell, content in self._cells:
            cell.cell_contents = content
        for names, name, value in self._bindings:
            if names.get(name) is not value:
                names[name] = value
        for array, saved_array in self._arrays:
            array[...] = saved_array
        for generator, state in self._generators:
            generator.set_state(state)
        for tensor in self._tensors:
            if tensors or tensor.cloned:
                tensor.put_back()

    def _note(self, roots: Iterable[Any]) -> None:
        waiting, seen, alive = deque(roots), set[int](), []
        while waiting and len(seen) < _MOST_OBJECTS:
            value = waiting.popleft()
            if isinstance(value, _ATOMS) or id(value) in seen:
                continue
            seen.add(id(value))
            alive.append(value)
            with contextlib.suppress(Exception):  # an object that can't be looked at
                waiting.extend(self._noted(value))

    def _noted(self, value: Any) -> Iterable[Any]:
        """Notes one object; what it leads to."""
        if isinstance(value, Tensor):
            self._note_tensor(value)
            return ()
        if isinstance(value, np.ndarray):
            if value.flags.writeable and self._affordable(value.nbytes):
                self._arrays.append((value, value.copy()))
            return ()
        if isinstance(value, torch.Generator):
            self._generators.append((value, value.get_state()))
            return ()
        if isinstance(value, types.FunctionType):
            return self._note_function(value)
        if isinstance(value, types.MethodType):
            return (value.__self__, value.__func__)
        if isinstance(value, functools.partial):
            return (value.func, *value.args, *value.keywords.values())
        found: list[Any] = []
        if isinstance(value, tuple | frozenset):
            found += value
        elif isinstance(value, dict):
            self._dicts.append((value, dict(value)))
            found += value.values()
        elif isinstance(value, _CONTAINERS):
            self._containers.append((value, list(value)))
            found += value
        attributes = getattr(value, "__dict__", None)
        foreign = _foreign(type(value))
        if isinstance(attributes, dict) and (not foreign or isinstance(value, nn.Module)):
            self._dicts.append((attributes, dict(attributes)))
            found += attributes.values()
        if not foreign:
            found += [f for f in vars(type(value)).values() if isinstance(f, types.FunctionType)]
        return found

    def _note_function(self, function: types.FunctionType) -> Iterable[Any]:
        found: list[Any] = []
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                self._cells.append((cell, cell.cell_contents))
                found.append(cell.cell_contents)
        if not _foreign(function):
            names = function.__globals__
            read, assigned = _global_names(function.__code__)
            self._bindings += [(names, name, names[name]) for name in assigned if name in names]
            found += [names[name] for name in read if name in names]
        return found

    def _note_tensor(self, tensor: Tensor) -> None:
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
        if self._copies is None or not plain or tensor.is_meta or tensor.is_quantized:
            return
        truth = self._copies.get(id(tensor))
        cloned = truth is None and self._affordable(tensor.nbytes)
        with torch.no_grad():
            truth = tensor.detach().clone() if cloned else truth
        if isinstance(truth, Tensor) and truth is not tensor:
            self._tensors.append(_KeptTensor(tensor, truth.detach(), cloned))

    def _affordable(self, size: int) -> bool:
        self._bytes += size
        return self._bytes <= _MOST_BYTES


class _KeptTensor:
    """One tensor, where its numbers lay, and what they were."""

    def __init__(self, tensor: Tensor, truth: Tensor, cloned: bool) -> None:
        self._tensor, self._truth, self.cloned = tensor, truth, cloned
        self._memory = tensor.data
        self._requires_grad, self._grad = (
            tensor.requires_grad,
            tensor.grad if _leaf(tensor) else None,
        )

    def put_back(self) -> None:
        with torch.no_grad(), contextlib.suppress(RuntimeError):
            tensor, memory = self._tensor, self._memory
            if tensor.data_ptr() != memory.data_ptr() or tensor.shape != memory.shape:
                tensor.data = memory
            if not torch.equal(memory, self._truth):
                memory.copy_(self._truth)
            if _leaf(tensor):
                if tensor.requires_grad != self._requires_grad:
                    tensor.requires_grad_(self._requires_grad)
                if tensor.grad is not self._grad:
                    tensor.grad = self._grad


def _leaf(tensor: Tensor) -> bool:
    return tensor.is_leaf and not tensor.is_inference()


def _foreign(value: Any) -> bool:
    """Whether a class or function comes with torch or Python."""
    return str(getattr(value, "__module__", None)).split(".")[0] in _FOREIGN


def _global_names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """The names that a function may read from its module, and those that it assigns there."""
    read = set(code.co_names)
    assigned = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _global_names(constant)
            read, assigned = read | inner[0], assigned | inner[1]
    return read, assigned


def _same(found: Mapping[Any, Any], saved: Mapping[Any, Any]) -> bool:
    """Whether two dicts hold the same objects in the same order."""
    return len(found) == len(saved) and all(
        a is b and v is w for (a, v), (b, w) in zip(found.items(), saved.items(), strict=True)
    )


def _refill(container: Any, saved: Any) -> None:
    """Gives a list, a set or a deque the items that it had."""
    if len(container) == len(saved) and all(a is b for a, b in zip(container, saved, strict=True)):
        return
    container.clear()
    (container.update if isinstance(container, set) else container.extend)(saved)


@contextlib.contextmanager
def global_state_kept() -> Iterator[None]:
    """The block leaves random numbers and the default dtype as it found them."""
    dtype, numbers = torch.get_default_dtype(), random.getstate()
    arrays = np.random.get_state()  # noqa: NPY002 (what the user's modules may draw from)
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    devices = list(range(torch.cuda.device_count())) if cuda else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_default_dtype(dtype)
        random.setstate(numbers)
        np.random.set_state(arrays)  # noqa: NPY002


@contextlib.contextmanager
def left_as_it_was(roots: Iterable[Any], copies: Mapping[int, Any]) -> Iterator[KeptState]:
    """A block in which a model runs; at its end the model and its hooks hold what they held.

    Args:
        roots: the user's model, and hooks that it doesn't hold itself.
        copies: its deep copy's tensors by the id of the original; see `KeptState`.
    """
    kept = KeptState(roots, copies)
    try:
        with global_state_kept():
            yield kept
    finally:
        kept.put_back(tensors=False)
