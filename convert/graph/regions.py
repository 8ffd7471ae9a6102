"""Regions of pointwise operations that depend on one tensor, and what is affine in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .node_facts import read
from .operators import Kind, is_aten, kind_of, operator_of

aten = torch.ops.aten

# Read a tensor's form, not its values.
_NO_SIGNAL = (Kind.FILL, Kind.SIZE)
# Where an operation that fills a tensor has its number.
_FILLED = {"full_like": 1, "full": 1, "new_full": 2}
# What spreads a number over a tensor.
_SPREAD = ("expand", "view", "reshape", "unsqueeze", "alias", "clone")


@dataclass
class Form:
    """A value as ``x * root + one + sum of coefficient * atom``; an atom is a nonlinear node."""

    x: float = 0.0
    one: float = 0.0
    atoms: dict[Node, float] = field(default_factory=dict)

    @property
    def constant(self) -> bool:
        """Whether the value doesn't depend on the root."""
        return not self.x and not self.atoms

    def scaled(self, factor: float) -> Form:
        """This value times a number."""
        atoms = {atom: c * factor for atom, c in self.atoms.items() if c * factor}
        return Form(self.x * factor, self.one * factor, atoms)

    def plus(self, other: Form) -> Form:
        """The sum of two values."""
        atoms = dict(self.atoms)
        for atom, c in other.atoms.items():
            atoms[atom] = atoms.get(atom, 0.0) + c
        atoms = {atom: c for atom, c in atoms.items() if c}
        return Form(self.x + other.x, self.one + other.one, atoms)


class Regions:
    """Root and form of every node of a graph.

    The root of a pointwise node whose varying inputs share one root, with nothing but scalars
    beside it, is that root; any other node is its own root. Affine is decided from the
    operations, never from samples. Given are whole numbers and masks that come with the network's
    whole-number inputs (token ids, attention masks), before any weight: they are no signals.
    """

    def __init__(self, graph_module: GraphModule) -> None:
        self.graph_module = graph_module
        self.varying: set[Node] = set()
        self.given: set[Node] = set()
        self.root: dict[Node, Node] = {}
        self.form: dict[Node, Form] = {}
        # A chain for each node, back to its root: what all of it passes through.
        self._before: dict[Node, Node] = {}
        self._depth: dict[Node, int] = {}
        for node in graph_module.graph.nodes:
            if node.op == "placeholder":
                if isinstance(node.meta.get("val"), Tensor):
                    self.varying.add(node)
                    if not is_float(node):
                        self.given.add(node)
            elif node.op in ("call_function", "call_module") and kind_of(node) not in _NO_SIGNAL:
                if any(i in self.varying for i in node.all_input_nodes):
                    self.varying.add(node)
                    if self._is_given(node):
                        self.given.add(node)
            self.root[node] = self._find_root(node)
            self._find_before(node)
            self.form[node] = Form(1.0) if self.root[node] is node else self._find_form(node)

    @cached_property
    def signals(self) -> set[Node]:
        """What varies and isn't given."""
        return self.varying - self.given

    def _is_given(self, node: Node) -> bool:
        inputs = [i for i in node.all_input_nodes if i in self.varying]
        if not isinstance(node.meta.get("val"), Tensor) or any(i not in self.given for i in inputs):
            return False
        row = operator_of(node)
        return not is_float(node) or (row is not None and row.masks)

    def number(self, value: Any) -> bool | int | float | None:
        """The number or truth value that an argument stands for, None if it isn't one."""
        if isinstance(value, bool | int | float):
            return value
        if not isinstance(value, Node):
            return None
        if value.op == "get_attr":
            tensor = read(self.graph_module, value)
            if isinstance(tensor, Tensor) and tensor.numel() == 1 and not tensor.is_complex():
                return tensor.item()
        if is_aten(value) and packet(value) in _SPREAD:
            return self.number(value.args[0])
        return _filled(value)

    def scalar(self, value: Any) -> float | None:
        """As `number`, as a float."""
        number = self.number(value)
        return None if number is None else float(number)

    def _find_root(self, node: Node) -> Node:
        if node.op != "call_function" or not is_pointwise(node):
            return node
        varying = [i for i in node.all_input_nodes if i in self.varying]
        fills = kind_of(node) is Kind.FILL
        if fills:
            varying = list(node.all_input_nodes)[:1]
        others = [i for i in node.all_input_nodes if i not in varying]
        roots = {self.root[i] for i in varying}
        if len(roots) != 1 or any(self.scalar(i) is None for i in others):
            return node
        root = roots.pop()
        # A number made of whole numbers or truth values is where a signal begins; those that a
        # comparison or rounding makes of a signal are part of its region.
        if is_float(node) and not fills and not any(map(is_float, (root, *varying))):
            return node
        return root if _shape(root) == _shape(node) else node

    def _of(self, value: Any, root: Node) -> Form:
        number = self.scalar(value)
        if number is not None:
            return Form(one=number)
        assert isinstance(value, Node)
        return Form(1.0) if value is root else self.form[value]

    def _find_form(self, node: Node) -> Form:
        root, kind, args = self.root[node], kind_of(node), node.args
        name = packet(node) if is_aten(node) else ""
        if kind is Kind.FILL:
            return Form(one=self.scalar(node) or 0.0)
        if not is_float(node) or not all(_numeric(a) for a in args):
            return Form(atoms={node: 1.0})
        if kind in (Kind.IDENTITY, Kind.CAST):
            source = args[0]
            if isinstance(source, Node) and is_float(source):
                return self._of(source, root)
        elif name == "neg":
            return self._of(args[0], root).scaled(-1.0)
        elif name in ("add", "sub", "rsub"):
            a, b = (self._of(arg, root) for arg in args[:2])
            alpha = self.scalar(node.kwargs.get("alpha", args[2] if len(args) > 2 else 1)) or 0.0
            if name == "rsub":
                return b.plus(a.scaled(-alpha))
            return a.plus(b.scaled(alpha if name == "add" else -alpha))
        elif name in ("mul", "div") and len(args) == 2 and "rounding_mode" not in node.kwargs:
            a, b = (self._of(arg, root) for arg in args)
            if b.constant and (name == "mul" or b.one):
                return a.scaled(b.one if name == "mul" else 1.0 / b.one)
            if a.constant and name == "mul":
                return b.scaled(a.one)
        return Form(atoms={node: 1.0})

    def escapes(self, node: Node) -> bool:
        """Whether a value is read outside its region."""
        root = self.root[node]
        return any(user.op == "output" or self.root[user] is not root for user in node.users)

    def inputs(self, node: Node) -> Iterator[Node]:
        """The arguments of a node that vary within its region."""
        for argument in node.all_input_nodes:
            if argument in self.varying and self.root.get(argument) is self.root[node]:
                yield argument

    def head(self, value: Node) -> Node:
        """The last affine node through which everything that `value` depends on passes."""
        frontier: list[Node] = []
        seen: set[Node] = set()
        stack = list(self.inputs(value))
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if self.form[node].atoms:
                stack.extend(self.inputs(node))
            else:
                frontier.append(node)
        return reduce(self._common, frontier)

    def _find_before(self, node: Node) -> None:
        """Notes the last node before this one through which all that it depends on passes."""
        parents = [] if self.root[node] is node else list(self.inputs(node))
        if parents:
            before = reduce(self._common, parents)
            self._before[node] = before
            self._depth[node] = self._depth[before] + 1
        else:
            self._depth[node] = 0

    def _common(self, a: Node, b: Node) -> Node:
        """The last node through which all passes that two values of a region depend on."""
        while a is not b:
            if self._depth[a] < self._depth[b]:
                a, b = b, a
            a = self._before[a]
        return a


def is_pointwise(node: Node) -> bool:
    """Whether a node computes every element of its output from one element of each input."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return False
    if node.target is aten.clone.default:
        # With a memory format it is a layout that a later view relies on.
        return node.kwargs.get("memory_format") in (None, torch.preserve_format)
    if kind_of(node) in (Kind.POINTWISE, Kind.IDENTITY, Kind.CAST, Kind.FILL):
        return True
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags


def is_float(node: Node) -> bool:
    """Whether a node's value is a floating-point tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def packet(node: Node) -> str:
    """The operation's name without its overload: ``relu`` for aten.relu.default."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target.overloadpacket.__name__
    return getattr(target, "__name__", str(target))


def _numeric(value: Any) -> bool:
    known = not isinstance(value, Node) or is_float(value) or value.op == "get_attr"
    return known or _filled(value) is not None


def _filled(node: Node) -> bool | int | float | None:
    """The number that a tensor is filled with, whatever its shape; None for any other."""
    if node.op != "call_function" or not is_aten(node):
        return None
    name = packet(node)
    if name in ("zeros_like", "ones_like"):
        value: Any = int(name == "ones_like")
    elif name in _FILLED and len(node.args) > _FILLED[name]:
        value = node.args[_FILLED[name]]
    else:
        return None
    if not isinstance(value, bool | int | float):
        return None
    dtype = node.meta["val"].dtype
    if dtype.is_complex:
        return None
    return torch.tensor(value, dtype=dtype).item()


def _shape(node: Node) -> tuple[str, ...]:
    value = node.meta.get("val")
    return tuple(map(str, value.shape)) if isinstance(value, Tensor) else ("none", node.name)
