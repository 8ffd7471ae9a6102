"""What a network's forward takes: names, which of them it needs, and numbers of which type."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

import torch
from torch import nn

# Lowest and highest value of an input; None where nothing is known.
Range = tuple[float, float] | None


@dataclass(frozen=True)
class Parameters:
    """The inputs of a forward.

    Args:
        names: those that can be given by position, in order.
        required: how many of them can't be left out.
        by_name: those that must be given by name and can't be left out.
        beside: those that can be given by name alone, and be left out.
        optional: those that are None where they aren't given, of either kind.
        more: whether it takes any number by position.
        named: whether it takes any name.
        takes_dict: whether its first parameter is a dict.
        unordered: whether the order of the names isn't known.
        dtypes: of the flat inputs of a converted network, None for one that is no tensor; empty
            for a model.
        dims: how many dimensions they have.
        ranges: their calibrated ranges; empty where they aren't known.
    """

    names: tuple[str, ...] = ()
    required: int = 0
    by_name: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    more: bool = False
    named: bool = False
    takes_dict: bool = False
    unordered: bool = False
    dtypes: tuple[torch.dtype | None, ...] = ()
    dims: tuple[int | None, ...] = ()
    ranges: tuple[Range, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the inputs that can't be left out."""
        return (*self.names[: self.required], *self.by_name)

    @property
    def known(self) -> tuple[str, ...]:
        """All names."""
        return (*self.names, *self.by_name, *self.beside)

    @property
    def least(self) -> int:
        """How many inputs a call has at least."""
        return max(1, len(self.needed))

    @property
    def first(self) -> str:
        """What the first input is called in messages."""
        return next(iter(self.known), "x")

    def typed(self, others: Parameters) -> Parameters:
        """The same with the types and ranges of a converted network's inputs."""
        return replace(self, dtypes=others.dtypes, ranges=others.ranges)

    def form(self) -> str:
        """The forms of a batch that would do, in the network's own names."""
        needed = self.needed or (self.first,)
        listed = ", ".join(needed)
        by_name = "{" + ", ".join(f'"{name}": {name}' for name in needed) + "}"
        if self.unordered:
            return by_name
        if len(needed) == 1:
            return f"({listed}, label) or {by_name}"
        return f"({listed}, label), (({listed}), label) or {by_name}"


def parameters_of(model: nn.Module) -> Parameters:
    """What `model.forward` takes."""
    names: list[str] = []
    by_name: list[str] = []
    beside: list[str] = []
    optional: list[str] = []
    required = 0
    more = named = takes_dict = False
    for parameter in inspect.signature(model.forward).parameters.values():
        needed = parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            more = True
        elif parameter.kind is parameter.VAR_KEYWORD:
            named = True
        elif parameter.kind is parameter.KEYWORD_ONLY:
            (by_name if needed else beside).append(parameter.name)
        else:
            if not names:
                annotation = str(parameter.annotation).lower()
                takes_dict = "dict" in annotation or "mapping" in annotation
            names.append(parameter.name)
            required += needed
        if parameter.default is None:
            optional.append(parameter.name)
    return Parameters(
        names=tuple(names),
        required=required,
        by_name=tuple(by_name),
        beside=tuple(beside),
        optional=tuple(optional),
        more=more,
        named=named,
        takes_dict=takes_dict,
    )
