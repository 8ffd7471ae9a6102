"""Chains of reshapes, permutations and copies, made as short as they can be: the same values.

`nn.MultiheadAttention` moves its queries, keys and values through some ten of them, which for one
image take as long as a neuron does. Every value of such a chain is a rearrangement of its source's
axes: these are followed as `Axes`, and the chain's ends are made of the source anew, by one
reshape, one permutation and one reshape at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from .edit import Emitter
from .operators import is_fresh
from .origins import OUTPUT_OF

aten = torch.ops.aten

_COPIES = (aten.clone.default, aten.contiguous.default)
_SHAPING = (
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
)
_SQUEEZES = (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
# A number, or an expression of the lengths that vary.
Length = Any


@dataclass(frozen=True, eq=False)
class _Atom:
    """A part of an axis that no operation of the chain takes apart; two are never equal."""

    length: Length


Axis = tuple[_Atom, ...]


@dataclass(frozen=True)
class Axes:
    """The axes of a value in those of the source that it was made of.

    Args:
        source: the source's axes; none of its atoms for an axis of length 1.
        axes: the value's.
        picked: the place that was selected along atoms that the value no more has.
    """

    source: tuple[Axis, ...]
    axes: tuple[Axis, ...]
    picked: dict[_Atom, int] = field(default_factory=dict)

    @classmethod
    def of(cls, shape: Sequence[Length]) -> Axes:
        """Those of a source of this shape."""
        lengths = map(_expression, shape)
        axes = tuple(() if length == 1 else (_Atom(length),) for length in lengths)
        return cls(axes, axes)

    def permuted(self, order: Sequence[int]) -> Axes:
        """After a permutation."""
        return replace(self, axes=tuple(self.axes[axis] for axis in order))

    def selected(self, axis: int, place: int) -> Axes | None:
        """After one place of an axis was chosen; None where that axis consists of several."""
        atoms = self.axes[axis]
        if len(atoms) > 1 or not all(isinstance(atom.length, int) for atom in atoms):
            return None
        picked = self.picked | {atom: place % atom.length for atom in atoms}
        return replace(self, axes=self.axes[:axis] + self.axes[axis + 1 :], picked=picked)

    def reshaped(self, shape: Sequence[Length]) -> Axes | None:
        """After a reshape; None where an axis can't be told to be a product of whole parts."""
        result, left = self, [atom for axis in self.axes for atom in axis]
        axes: list[Axis] = []
        for length in shape:
            rest: Length | None = _expression(length)
            axis: list[_Atom] = []
            while rest != 1:
                if not left:
                    return None
                atom = left.pop(0)
                over = _quotient(rest, atom.length)
                if over is None:
                    second = _quotient(atom.length, rest)
                    if second is None:
                        return None
                    parts = _Atom(rest), _Atom(second)
                    result, over = result._split(atom, parts), 1
                    left.insert(0, parts[1])
                    atom = parts[0]
                axis.append(atom)
                rest = over
            axes.append(tuple(axis))
        return None if left else replace(result, axes=tuple(axes))

    def _split(self, atom: _Atom, parts: Axis) -> Axes:
        def apart(axis: Axis) -> Axis:
            return tuple(p for a in axis for p in (parts if a is atom else (a,)))

        return replace(self, source=tuple(apart(axis) for axis in self.source))

    @property
    def atoms(self) -> list[_Atom]:
        """All atoms of the source, in its order."""
        return [atom for axis in self.source for atom in axis]


def _expression(length: Length) -> Length:
    """A length as a number, or as an expression that can be compared without a guard."""
    return length.node.expr if isinstance(length, torch.SymInt) else length


def _quotient(whole: Length, part: Length) -> Length | None:
    """``whole / part``; None if it isn't a whole number for every length that varies."""
    if isinstance(whole, int) and isinstance(part, int):
        return None if whole % part else whole // part
    import sympy  # loaded with torch.export, and not with this package

    try:
        found = sympy.cancel(whole / part)
    except sympy.PolynomialError:  # a length with conditions in it
        return None
    # The denominator of a sum is that of all its terms together.
    if sympy.denom(sympy.together(found)) != 1:
        return None
    return int(found) if found.is_Integer else found


def _drops_the_same(node: Node) -> bool:
    """Whether a squeeze drops the same axes at every call: a length that varies may be 1 at one."""
    operand: Any = node.args[0]
    shape = operand.meta["val"].shape
    axes: Any = node.args[1] if len(node.args) > 1 else range(len(shape))
    return all(isinstance(shape[axis], int) for axis in ([axes] if isinstance(axes, int) else axes))


def _after(node: Node, before: Axes) -> Axes | None:
    """The axes of a node's value by those of its operand; None for what is no rearrangement."""
    rank = len(before.axes)
    args: Any = node.args[1:]
    if node.kwargs and node.target not in _COPIES:
        return None
    if node.target in _COPIES:
        return before
    if node.target in _SHAPING or (node.target in _SQUEEZES and _drops_the_same(node)):
        return before.reshaped(node.meta["val"].shape)
    if node.target is aten.permute.default:
        (order,) = args
        return before.permuted([axis % rank for axis in order])
    if node.target is aten.transpose.int:
        first, second = (axis % rank for axis in args)
        order = list(range(rank))
        order[first], order[second] = second, first
        return before.permuted(order)
    if node.target is aten.select.int and isinstance(args[1], int):
        return before.selected(args[0] % rank, args[1])
    return None


@dataclass
class _Chains:
    """All that is made of one source: the axes of every value, in the graph's order."""

    source: Node
    axes: dict[Node, Axes] = field(default_factory=dict)

    def ends(self) -> list[Node]:
        """The values that are read outside, or are the output of a layer."""
        return [
            node
            for node in self.axes
            if OUTPUT_OF in node.meta or any(user not in self.axes for user in node.users)
        ]


def _chains(graph: Graph) -> list[_Chains]:
    """The chains of a graph; what a layer gives ends one, and may be the source of others."""
    of_source: dict[Node, _Chains] = {}
    holding: dict[Node, _Chains] = {}
    for node in graph.nodes:
        operand = node.args[0] if node.op == "call_function" and node.args else None
        if not isinstance(operand, Node):
            continue
        shapes: list[Any] = [operand.meta.get("val"), node.meta.get("val")]
        if not all(isinstance(value, Tensor) and 0 not in value.shape for value in shapes):
            continue
        chains = holding.get(operand)
        after = None
        if chains is not None and OUTPUT_OF not in operand.meta:
            after = _after(node, chains.axes[operand])
        if after is None:
            chains = of_source.get(operand) or _Chains(operand)
            after = _after(node, Axes.of(shapes[0].shape))
        if after is not None and chains is not None:
            of_source[chains.source] = holding[node] = chains
            chains.axes[node] = after
    return list(of_source.values())


@dataclass(frozen=True)
class _Step:
    """An operation on one value, with its other arguments; lengths as expressions."""

    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()


Steps = tuple[_Step, ...]


def _steps(node: Node, axes: Axes) -> Steps:
    """How a value is made of its source."""
    found: list[_Step] = []
    atoms = axes.atoms
    if any(len(axis) != 1 for axis in axes.source):
        found.append(_Step(aten.reshape.default, tuple(atom.length for atom in atoms)))
    left = [atom for axis in axes.axes for atom in axis]
    picked = [atom for atom in atoms if atom in axes.picked]
    if left == [atom for atom in atoms if atom not in axes.picked]:
        for atom in reversed(picked):
            found.append(_Step(aten.select.int, (atoms.index(atom), axes.picked[atom])))
    else:
        # Values that are picked at different places share the permutation.
        order = tuple(atoms.index(atom) for atom in (*picked, *left))
        found.append(_Step(aten.permute.default, order))
        found += [_Step(aten.select.int, (0, axes.picked[atom])) for atom in picked]
    if any(len(axis) != 1 for axis in axes.axes):
        shape = map(_expression, node.meta["val"].shape)
        found.append(_Step(aten.reshape.default, tuple(shape)))
    if node.target in _COPIES:
        found.append(_Step(node.target, node.args[1:], tuple(node.kwargs.items())))
    return tuple(found)


def _joins(axes: Axes) -> bool:
    """Whether an axis joins parts that don't lie side by side in the source: this takes a copy."""
    place = {atom: index for index, atom in enumerate(axes.atoms)}
    return any(
        place[second] != place[first] + 1 for axis in axes.axes for first, second in pairwise(axis)
    )


def _share(axes: Axes) -> Fraction:
    """Which share of the source a value holds."""
    share = Fraction(1)
    for atom in axes.picked:
        share /= atom.length
    return share


def _copied_before(chains: _Chains) -> Fraction:
    """How often the chains, as they are, copy the source."""
    copied, dense = Fraction(0), set[Node]()
    for node, axes in chains.axes.items():
        operand = node.args[0]
        if operand in dense:
            dense.add(node)
        if node.target in _COPIES or (_joins(axes) and operand not in dense):
            copied += _share(axes)
            dense.add(node)
    return copied


def shorten(graph_module: GraphModule) -> None:
    """Makes chains of rearrangements of a graph of fewer operations, where no more is copied.

    Args:
        graph_module: a graph whose nodes know their values' shapes; others stay as they are.
    """
    graph = graph_module.graph
    place = {node: index for index, node in enumerate(graph.nodes)}
    lengths: dict[Length, Node] = {}
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), torch.SymInt):
            lengths.setdefault(_expression(node.meta["val"]), node)
    exposed = _exposed(graph)
    replaced: dict[Node, Node] = {}
    for chains in _chains(graph):
        ways = {end: _steps(end, chains.axes[end]) for end in chains.ends()}
        if (
            exposed.isdisjoint(ways)
            and _shorter(chains, ways)
            and all(_known(steps, lengths, place, end) for end, steps in ways.items())
        ):
            source = replaced.get(chains.source, chains.source)
            replaced |= _remake(graph_module, source, ways, lengths)
    graph.eliminate_dead_code()
    graph.lint()
    graph_module.recompile()


def _exposed(graph: Graph) -> set[Node]:
    """The values in whose memory an output may lie.

    Without its copies it might lie in that of an input, a weight or another output.
    """
    found: set[Node] = set()
    left = [node for output in graph.find_nodes(op="output") for node in output.all_input_nodes]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += () if is_fresh(node) else node.all_input_nodes
    return found


def _shorter(chains: _Chains, ways: Mapping[Node, Steps]) -> bool:
    """Whether the ways to the ends are fewer operations and copy no more."""
    if not all(ways.values()):
        return False
    made = {steps[: n + 1] for steps in ways.values() for n in range(len(steps))}
    copied = Fraction(0)
    for end in ways:
        axes = chains.axes[end]
        copied += _share(axes) if end.target in _COPIES or _joins(axes) else 0
    return len(made) < len(chains.axes) and copied <= _copied_before(chains)


def _known(
    steps: Steps, lengths: Mapping[Length, Node], place: Mapping[Node, int], end: Node
) -> bool:
    """Whether every length of a way is a number, or stands in the graph before the end."""
    return all(
        isinstance(length, int) or (length in lengths and place[lengths[length]] < place[end])
        for step in steps
        if step.target is aten.reshape.default
        for length in step.args
    )


def _remake(
    graph_module: GraphModule,
    source: Node,
    ways: Mapping[Node, Steps],
    lengths: Mapping[Length, Node],
) -> dict[Node, Node]:
    """Makes the ends of chains anew; what took the place of each."""
    made: dict[Steps, Node] = {(): source}
    replaced: dict[Node, Node] = {}
    for end, steps in ways.items():
        emit = Emitter(graph_module, end)
        for n, step in enumerate(steps):
            if steps[: n + 1] not in made:
                args: tuple[Any, ...] = step.args
                if step.target is aten.reshape.default:
                    args = ([a if isinstance(a, int) else lengths[a] for a in args],)
                elif step.target is aten.permute.default:
                    args = (list(args),)
                value = emit.call(step.target, made[steps[:n]], *args, **dict(step.kwargs))
                made[steps[: n + 1]] = value
        replaced[end] = made[steps]
        emit.replace(end, made[steps])
    return replaced
