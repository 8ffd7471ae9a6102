"""A graph whose signals are currents over time steps, ``[T, N, ...]``, as it is built.

A value is *plain* where it has the original's form, and *stepped* where it has an axis of time
steps in front, whose sum is the plain value.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from ..graph.node_facts import read
from .subject import Subject


@dataclass(frozen=True)
class Steps:
    """A stepped value.

    Args:
        node: of the new graph, ``[T, ...]``.
        count: T.
    """

    node: Node
    count: int


class SteppedGraph:
    """The new graph, with what it calls.

    Args:
        subject: what is translated.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject, self.graph, self.root = subject, Graph(), nn.Module()
        self.plain: dict[Node, Any] = {}
        self.stepped: dict[Node, Steps] = {}
        # Values that don't vary with the input, and are no parameters.
        self.constants: dict[Node, Any] = {}
        # Where tensors of the old network lie, by the path that they had.
        self.placed: dict[str, str] = {}
        # Parameters of the new network by the path that they had.
        self.parameters: dict[str, nn.Parameter] = {}

    def is_signal(self, value: Any) -> bool:
        """Whether an argument of an operation varies with the input."""
        return isinstance(value, Node) and value in self.subject.signals

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """A new node that calls a function."""
        return self.graph.call_function(target, args, kwargs)

    def original(self, value: Any) -> Any:
        """An argument of the old graph in its original form."""
        return map_arg(value, self._original)

    def _original(self, node: Node) -> Any:
        if node not in self.plain:
            if node in self.stepped:
                steps = self.stepped[node]
                single = steps.count == 1
                made = self.call(torch.squeeze if single else torch.sum, steps.node, 0)
            elif node in self.constants and node.op != "get_attr":
                made = self.constants[node]
                if isinstance(made, Tensor):
                    made = self.buffer(f"constants.{node.name}", made)
            else:
                assert node.op == "get_attr", node
                made = self.tensor(str(node.target), read(self.subject.network, node))
            self.plain[node] = made
        return self.plain[node]

    def over_steps(self, node: Node) -> Steps:
        """A signal of the old graph as currents; what has no steps comes in one."""
        if node not in self.stepped:
            self.stepped[node] = Steps(self.call(torch.unsqueeze, self.original(node), 0), 1)
        return self.stepped[node]

    def lengthened(self, node: Node, count: int, to: int, axes: int) -> Node:
        """Currents ``[T, ...]`` with steps of zeros behind, up to `to` of them."""
        if count == to:
            return node
        return self.call(nn.functional.pad, node, [0, 0] * axes + [0, to - count])

    def together(self, nodes: Sequence[Node]) -> tuple[list[Node], int]:
        """Signals of the old graph in equally many steps; the shorter end with zeros."""
        steps = [self.over_steps(node) for node in nodes]
        longest = max(s.count for s in steps)
        axes = [node.meta["val"].dim() for node in nodes]
        found = [
            self.lengthened(s.node, s.count, longest, n) for s, n in zip(steps, axes, strict=True)
        ]
        return found, longest

    def fitted(self, steps: Steps, to: int, axes: int) -> Node:
        """Currents in `to` steps: with zeros behind, or where there are more, their sum first."""
        node, count = steps.node, steps.count
        if count > to:
            node, count = self.call(torch.sum, node, 0, keepdim=True), 1
        return self.lengthened(node, count, to, axes)

    def at_first(self, value: Node, axes: int, count: int, index: Sequence[slice | None]) -> Node:
        """A constant as a current of the first step alone, to be added to ``[T, N, ...]``.

        Args:
            value: plain.
            axes: of the plain value that it is added to.
            count: T.
            index: where the axes of the constant lie among the last of these, as in indexing.
        """
        index = (*[None] * (1 + axes - len(index)), *index)
        current = self.call(operator.getitem, value, index)
        return self.lengthened(current, 1, count, axes)

    def tensor(self, path: str, value: Tensor) -> Node:
        """A tensor of the old network at its path, or at one of its own if that is taken."""
        if path not in self.placed:
            self.placed[path] = self._place(path, value)
        return self.graph.get_attr(self.placed[path])

    def _place(self, path: str, value: Any) -> str:
        held = self.parameter(path, value) if isinstance(value, nn.Parameter) else value
        owner, name = self._owner(path)
        if getattr(owner, name, None) is held:
            return path
        if type(owner) is not nn.Module or hasattr(owner, name):
            # A layer that has no bias would take it for its own.
            path = self._free(f"tensors.{path.replace('.', '_')}")
            owner, name = self._owner(path)
        if isinstance(held, nn.Parameter):
            owner.register_parameter(name, held)
        elif isinstance(held, Tensor):
            owner.register_buffer(name, held.detach().clone())
        else:
            setattr(owner, name, held)
        return path

    def parameter(self, source: str, value: Tensor) -> nn.Parameter:
        """The parameter of a tensor of the old network: the same one for all that read it."""
        if source not in self.parameters:
            self.parameters[source] = nn.Parameter(value.detach().clone())
        return self.parameters[source]

    def hold(self, path: str, parameter: nn.Parameter) -> Node:
        """A parameter at this path, or one like it that is free."""
        path = self._free(path)
        owner, name = self._owner(path)
        owner.register_parameter(name, parameter)
        return self.graph.get_attr(path)

    def buffer(self, path: str, value: Tensor) -> Node:
        """A new tensor, at this path or one like it."""
        path = self._free(path)
        owner, name = self._owner(path)
        owner.register_buffer(name, value.detach().clone())
        return self.graph.get_attr(path)

    def has_module(self, path: str) -> bool:
        """Whether a module is at this path."""
        owner, name = self._owner(path)
        return name in owner._modules

    def module(self, path: str, module: nn.Module) -> str:
        """Puts a module at this path, or one like it that is free; the path."""
        path = self._free(path)
        owner, name = self._owner(path)
        owner.add_module(name, module)
        return path

    def call_module(self, path: str, value: Node) -> Node:
        """A new node that calls a module."""
        return self.graph.call_module(path, (value,))

    def _free(self, path: str) -> str:
        owner, name = self._owner(path)
        number = 1
        free = name
        while hasattr(owner, free):
            number += 1
            free = f"{name}_{number}"
        parent = path.rpartition(".")[0]
        return f"{parent}.{free}" if parent else free

    def _owner(self, path: str) -> tuple[nn.Module, str]:
        """The module that holds what a path names, made where there is none, and its name there."""
        *parents, name = path.split(".")
        owner = self.root
        for part in parents:
            found = owner._modules.get(part)
            if found is None:
                found = nn.Module()
                owner.add_module(part, found)
            owner = found
        return owner, name
