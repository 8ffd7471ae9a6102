"""What forward keeps of its last call, such as feature maps and grids, goes out of a copy."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .kept_state import KeptState

_TREES = ("_parameters", "_buffers", "_modules")


def forget(model: nn.Module, agrees: Callable[[], bool]) -> bool:
    """Takes out what forward replaces at each call, if it does without; whether the copy agrees.

    What was kept has the batch size of the last call, which would become part of the graph.

    Args:
        model: the copy of a model.
        agrees: runs it; whether its outputs are the model's.
    """
    before = {module: dict(vars(module)) for module in model.modules()}
    state = KeptState([model])
    agreed = agrees()
    replaced = [
        (module, name)
        for module, attributes in before.items()
        for name, value in attributes.items()
        if name not in _TREES and vars(module).get(name, value) is not value
    ]
    state.put_back()
    if not agreed or not replaced:
        return agreed
    for take_out in (_delete, _blank, _empty):
        take_out(replaced)
        works = agrees()
        state.put_back()
        if works:
            take_out(replaced)
            break
    return True


def _delete(places: list[tuple[nn.Module, str]]) -> None:
    for module, name in places:
        del vars(module)[name]


def _blank(places: list[tuple[nn.Module, str]]) -> None:
    for module, name in places:
        vars(module)[name] = None


def _empty(places: list[tuple[nn.Module, str]]) -> None:
    """For a forward that compares the length of what it has kept."""
    for module, name in places:
        value = vars(module)[name]
        vars(module)[name] = value.new_empty(0) if isinstance(value, Tensor) else None
