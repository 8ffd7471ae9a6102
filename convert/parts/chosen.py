"""Which modules of a model are its parts, by the names, globs and classes that a user gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from ..errors import InputError

# Modules that hold others and are never called.
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
# So many names or classes are told in a message.
_NAMED = 5

Wanted = str | type[nn.Module]


@dataclass(frozen=True)
class Chosen:
    """A module that is converted by itself.

    Args:
        name: its first name in the model.
        paths: all its names that lie in no other part; a shared module has several.
        exact: whether it was named by itself, not by a glob or a class.
    """

    name: str
    paths: tuple[str, ...]
    exact: bool


def choose(model: nn.Module, wanted: Sequence[Wanted]) -> tuple[list[Chosen], list[str]]:
    """The parts of a model in the order of its modules, and notes.

    A part inside another part is converted with that one.

    Args:
        model: the whole.
        wanted: names and globs of modules, and classes.

    Raises:
        InputError: for a name, a glob or a class that no module has, or a list of modules, which
            isn't called.
    """
    paths = {path: m for path, m in model.named_modules(remove_duplicate=False) if path}
    found: dict[str, bool] = {}
    for each in wanted:
        exact = isinstance(each, str) and each in paths
        for path in _matching(each, paths, model):
            found[path] = found.get(path, False) or exact
    names: dict[int, list[str]] = {}
    for path, module in paths.items():
        names.setdefault(id(module), []).append(path)
    chosen_ids = {id(paths[path]) for path in found}
    chosen, inside = [], []
    for key, own in names.items():
        if key not in chosen_ids:
            continue
        exact = any(found.get(path, False) for path in own)
        outer = {path: _holder(path, paths, chosen_ids) for path in own}
        free = tuple(path for path in own if outer[path] is None)
        if free:
            chosen.append(Chosen(free[0], free, exact))
        elif exact or not any(path in found for path in own):
            inside.append((own[0], outer[own[0]]))
    return chosen, _notes(inside)


def _notes(inside: Sequence[tuple[str, str | None]]) -> list[str]:
    by_holder: dict[str, list[str]] = {}
    for path, holder in inside:
        by_holder.setdefault(str(holder), []).append(path)
    return [
        f"{_listed(paths)}: inside the part {holder}, and converted with it"
        for holder, paths in by_holder.items()
    ]


def _matching(wanted: Wanted, paths: Mapping[str, nn.Module], model: nn.Module) -> Iterator[str]:
    """The names of what one entry of `modules=` chooses, one at least."""
    if not isinstance(wanted, str):
        matched = [path for path, module in paths.items() if isinstance(module, wanted)]
        if not matched:
            classes = dict.fromkeys(type(module).__name__ for module in paths.values())
            raise InputError(
                f"modules= names the class {wanted.__name__}, of which {type(model).__name__} has "
                f"no module; its modules are of {_listed(list(classes))}"
            )
        yield from matched
        return
    if wanted in paths:
        if isinstance(paths[wanted], _CONTAINERS):
            kind = type(paths[wanted]).__name__
            raise InputError(
                f"modules=: {wanted} is a {kind}, which isn't called; give {wanted + '.*'!r} for "
                "the modules in it"
            )
        yield wanted
        return
    matched = [path for path in paths if fnmatchcase(path, wanted)]
    called = [path for path in matched if not isinstance(paths[path], _CONTAINERS)]
    if not called:
        near = get_close_matches(wanted, paths, 3, 0.3) or list(paths)[:3]
        there = f"there are e.g. {', '.join(near)}" if near else "it has none"
        raise InputError(
            f"modules=: {type(model).__name__} has no module {wanted!r}; {there} "
            "(model.named_modules() lists all)"
        )
    yield from called


def _holder(path: str, paths: Mapping[str, nn.Module], chosen: set[int]) -> str | None:
    """The outermost chosen module around a name; None if there is none."""
    pieces = path.split(".")
    for count in range(1, len(pieces)):
        outer = ".".join(pieces[:count])
        if id(paths[outer]) in chosen:
            return outer
    return None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
