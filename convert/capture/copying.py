"""A deep copy of a model whatever hangs on it: files, locks, tensors with a history, closures."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..common.messages import first_line
from ..errors import CaptureError

# What `copy.deepcopy` has copied, by the id of the original.
Copies = dict[int, Any]

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type, types.FunctionType)
_TREES = ("_parameters", "_buffers", "_modules")


def copy_of(model: nn.Module, known: Copies | None = None) -> tuple[nn.Module, Copies]:
    """A deep copy of a model, and all copies that were made for it.

    Ties between parameters stay. What can't be copied (a file, a lock) is shared. Functions that
    the model or its hooks hold see the copy's tensors and modules where they closed over the
    model's.

    Args:
        model: the model.
        known: what takes the place of objects of it that aren't copied, by their id.

    Raises:
        CaptureError: if the model can't be copied even so.
    """
    copies: Copies = dict(known or {})
    try:
        copied = copy.deepcopy(model, copies)
    except Exception:
        copies = _stand_ins(model) | dict(known or {})
        try:
            copied = copy.deepcopy(model, copies)
        except Exception as error:
            raise CaptureError(
                f"the model can't be copied ({first_line(error)}); remove the attribute that "
                "doesn't deep-copy"
            ) from error
    if not isinstance(copied, nn.Module) or copied is model:
        raise CaptureError(
            f"copying the model gives a {type(copied).__name__} that isn't a copy; its "
            "__deepcopy__ must return a new module"
        )
    for module in list(copied.modules()):
        for name, value in list(vars(module).items()):
            if name not in _TREES:
                vars(module)[name] = _rebound(value, copies)
    return copied, copies


def make_own(graph_module: nn.Module, copied: nn.Module) -> None:
    """Clones what a captured graph reads and the copy doesn't hold, such as tensors of closures.

    They may be the user's, who goes on using them. Every tensor belongs to the state from then on.
    """
    ours = {tensor.untyped_storage().data_ptr() for tensor in _tensors(copied)}
    clones: Copies = {}
    for module in graph_module.modules():
        # A file holds the state: positions and frequencies that a model keeps out of its own, too.
        module._non_persistent_buffers_set = set()
        for held in (module._parameters, module._buffers, vars(module)):
            for name, value in list(held.items()):
                if not isinstance(value, Tensor) or value.untyped_storage().data_ptr() in ours:
                    continue
                own = clones.setdefault(id(value), value.detach().clone())
                parameter = isinstance(value, nn.Parameter)
                held[name] = nn.Parameter(own, requires_grad=False) if parameter else own


def _stand_ins(model: nn.Module) -> Copies:
    """What takes the place of values that don't copy: detached tensors, else the values."""
    itself: Copies = {id(module): module for module in model.modules()}
    found: Copies = {}
    for tensor in _tensors(model):
        if tensor.is_leaf:
            itself[id(tensor)] = tensor
        else:
            found[id(tensor)] = tensor.detach().clone()
    itself |= found
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in _TREES:
                found |= _stuck(value, itself | found, set())
    return found


def _tensors(model: nn.Module) -> Iterable[Tensor]:
    for module in model.modules():
        for name in ("_parameters", "_buffers"):
            yield from (t for t in vars(module)[name].values() if t is not None)


def _stuck(value: Any, known: Copies, above: set[int]) -> Copies:
    """Stand-ins for the innermost parts of a value that don't copy."""
    if isinstance(value, _SIMPLE) or id(value) in known or id(value) in above:
        return {}
    if isinstance(value, Tensor):
        return {} if value.is_leaf else {id(value): value.detach().clone()}
    if _copies(value, known):
        return {}
    found: Copies = {}
    for part in _parts(value):
        found |= _stuck(part, known | found, above | {id(value)})
    return found if found and _copies(value, known | found) else {**found, id(value): value}


def _copies(value: Any, known: Copies) -> bool:
    try:
        copy.deepcopy(value, dict(known))
    except Exception:
        return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    return list(getattr(value, "__dict__", {}).values())


def _rebound(value: Any, copies: Copies) -> Any:
    """A copied value whose functions see the copies; containers are changed in place."""
    if isinstance(value, types.FunctionType):
        return _function(value, copies)
    if copies.get(id(value)) is value:
        return value  # shared with the user's model
    if isinstance(value, dict):
        for key, held in list(value.items()):
            if (new := _rebound(held, copies)) is not held:
                value[key] = new
    elif isinstance(value, list):
        value[:] = [_rebound(held, copies) for held in value]
    elif type(value) is tuple:
        new_items = tuple(_rebound(held, copies) for held in value)
        same = all(a is b for a, b in zip(value, new_items, strict=True))
        return value if same else new_items
    elif isinstance(value, functools.partial):
        return functools.partial(_rebound(value.func, copies), *value.args, **value.keywords)
    return value


def _function(function: types.FunctionType, copies: Copies) -> types.FunctionType:
    """The function over cells of its own; functions that share a cell go on sharing it."""
    torchs = str(function.__module__).split(".")[0] == "torch"
    if id(function) in copies or not function.__closure__ or torchs:
        return copies.get(id(function), function)
    cells = [copies.get(id(cell)) or types.CellType() for cell in function.__closure__]
    made = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__, made.__module__ = function.__qualname__, function.__module__
    vars(made).update(vars(function))
    copies[id(function)] = made
    for old, new in zip(function.__closure__, cells, strict=True):
        if id(old) not in copies:
            copies[id(old)] = new
            with contextlib.suppress(ValueError):  # an empty cell
                new.cell_contents = _content(old.cell_contents, copies)
    return made


def _content(value: Any, copies: Copies) -> Any:
    """A copy of what a closure holds; the value itself where it has none."""
    if isinstance(value, types.FunctionType):
        return _function(value, copies)
    if isinstance(value, Tensor) and not value.is_leaf and id(value) not in copies:
        return copies.setdefault(id(value), value.detach().clone())
    trial = dict(copies)
    try:
        copied = copy.deepcopy(value, trial)
    except Exception:
        return value
    alive = trial.pop(id(trial), [])
    copies |= trial
    copies.setdefault(id(copies), []).extend(alive)
    return _rebound(copied, copies)
