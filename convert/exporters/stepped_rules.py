"""Linear operations on currents ``[T, N, ...]``: each acts on every time step by itself.

A rule takes the graph that is built, the old node and its arguments by name, and returns the
currents behind the operation, or None where it must have the decoded values. What an operation adds
(a bias, a constant) is added in the first step alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from .stepped_graph import SteppedGraph, Steps
from .subject import arguments, op_name, rank

Arguments = Mapping[str, Any]
Rule = Callable[[SteppedGraph, Node, Arguments], Steps | None]


def behind(g: SteppedGraph, node: Node) -> Steps | None:
    """The currents behind an operation of the old graph; None where it needs decoded values."""
    rule = RULES.get(op_name(node))
    given = arguments(node)
    if rule is None or not (rule in _SEVERAL or g.is_signal(given.get("self"))):
        return None
    return rule(g, node, given)


def shifted(axis: int) -> int:
    """An axis of a plain value as one of its currents."""
    return axis + 1 if axis >= 0 else axis


def _currents(g: SteppedGraph, value: Any) -> Steps | None:
    return g.over_steps(value) if g.is_signal(value) else None


def _constants(g: SteppedGraph, values: Sequence[Any]) -> bool:
    """Whether nothing that an operation reads beside its input is a signal."""
    return not any(g.is_signal(value) for value in values)


# Sums and differences.


def _sum(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    alpha = given.get("alpha", 1)
    factors = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[op_name(node)]
    parts = [(given["self"], factors[0]), (given["other"], factors[1])]
    signals = [value for value, _ in parts if g.is_signal(value)]
    axes = rank(node)
    if any(rank(value) != axes for value in signals) or not _floats(node):
        return None
    nodes, count = g.together(signals)
    moved = dict(zip(signals, nodes, strict=True))
    summands = []
    for value, factor in parts:
        made = moved[value] if g.is_signal(value) else _first(g, value, nodes[0], axes, count)
        if made is None:
            return None
        summands.append(made if factor == 1 else g.call(torch.mul, made, factor))
    return Steps(g.call(torch.add, *summands), count)


def _first(g: SteppedGraph, value: Any, like: Node, axes: int, count: int) -> Node | None:
    """A constant summand as a current of the first step, of the type of `like`."""
    own = 0
    if isinstance(value, Node):
        held = value.meta.get("val")
        if not isinstance(held, Tensor) or held.dim() > axes:
            return None
        made, own = g.original(value), held.dim()
    else:
        made = g.buffer("constants.number", torch.tensor(value, dtype=torch.float64))
    made = g.graph.call_method("type_as", (made, like))
    return g.at_first(made, axes, count, [slice(None)] * own)


def _floats(node: Node) -> bool:
    return bool(node.meta["val"].is_floating_point())


def _neg(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    steps = g.over_steps(given["self"])
    return Steps(g.call(torch.neg, steps.node), steps.count)


# Factors and weights.


def _times(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    x, other = given["self"], given["other"]
    if op_name(node) == "div" and (given.get("rounding_mode") or not g.is_signal(x)):
        return None
    if not g.is_signal(x):
        x, other = other, x
    if g.is_signal(other):
        return None
    if isinstance(other, Node):
        held = other.meta.get("val")
        if not isinstance(held, Tensor) or held.dim() > rank(x):
            return None
    steps = g.over_steps(x)
    called = torch.div if op_name(node) == "div" else torch.mul
    return Steps(g.call(called, steps.node, g.original(other)), steps.count)


def _matmul(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    x = given["self"]
    weight = given.get("mat2", given.get("other"))
    if not g.is_signal(x) or g.is_signal(weight) or rank(x) < 2 or rank(weight) != 2:
        return None
    steps = g.over_steps(x)
    return Steps(g.call(torch.matmul, steps.node, g.original(weight)), steps.count)


# Sums with equal factors.


def _reduced(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    axes = given.get("dim")
    if axes is None or axes == [] or given.get("dtype") is not None:
        return None
    axes = [axes] if isinstance(axes, int) else list(axes)
    steps = g.over_steps(given["self"])
    called = torch.mean if op_name(node) == "mean" else torch.sum
    made = g.call(called, steps.node, [shifted(a) for a in axes], bool(given.get("keepdim", False)))
    return Steps(made, steps.count)


# Layouts.


def _reshape(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    steps = g.over_steps(given["self"])
    sizes = given.get("size", given.get("shape"))
    if sizes is None or any(isinstance(v, torch.dtype) for v in node.args):
        return None
    made = g.call(torch.reshape, steps.node, [steps.count, *g.original(list(sizes))])
    return Steps(made, steps.count)


def _expand(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    sizes = given["size"]
    if len(sizes) != rank(given["self"]):
        return None
    steps = g.over_steps(given["self"])
    made = g.graph.call_method("expand", (steps.node, [steps.count, *g.original(list(sizes))]))
    return Steps(made, steps.count)


def _permute(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    steps, axes = g.over_steps(given["self"]), rank(given["self"])
    made = g.call(torch.permute, steps.node, [0, *(a % axes + 1 for a in given["dims"])])
    return Steps(made, steps.count)


def _transpose(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    if "dim0" not in given:
        return None
    steps = g.over_steps(given["self"])
    a, b = (shifted(given[name]) for name in ("dim0", "dim1"))
    return Steps(g.call(torch.transpose, steps.node, a, b), steps.count)


def _by_axis(*names: str) -> Rule:
    """A layout whose axes are arguments; all else is handed on."""

    def rule(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
        x, target = given["self"], node.target
        rest = {name: value for name, value in given.items() if name != "self"}
        if not _constants(g, list(rest.values())):
            return None
        for name in names:
            if rest.get(name) is None or rest[name] == []:
                return None
            axes = rest[name]
            rest[name] = shifted(axes) if isinstance(axes, int) else [shifted(a) for a in axes]
        steps = g.over_steps(x)
        # As ATen's operation has them: by position where it doesn't take them by name.
        assert isinstance(target, OpOverload)
        places = [a.name for a in target._schema.arguments if not a.kwarg_only]
        args = [steps.node, *(g.original(rest.pop(name)) for name in places[1:])]
        return Steps(g.graph.call_function(target, tuple(args), g.original(rest)), steps.count)

    return rule


def _joined(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    tensors = list(given["tensors"])
    if not all(g.is_signal(tensor) for tensor in tensors):
        return None
    nodes, count = g.together(tensors)
    called = torch.cat if op_name(node) == "cat" else torch.stack
    return Steps(g.call(called, nodes, shifted(given.get("dim", 0))), count)


def _pad(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    value = given.get("value")
    if isinstance(value, Node) or value or given.get("mode", "constant") != "constant":
        return None
    steps = g.over_steps(given["self"])
    made = g.call(torch.nn.functional.pad, steps.node, g.original(list(given["pad"])))
    return Steps(made, steps.count)


def _same(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    """Copies; a layout in memory is no matter of values."""
    if given.get("dtype") not in (None, node.args[0].meta["val"].dtype):  # type: ignore[union-attr]
        return None
    return g.over_steps(given["self"])


def _getitem(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
    source, index = node.args
    assert isinstance(source, Node)
    if source not in g.stepped or not isinstance(index, int):
        return None
    steps = g.stepped[source]
    return Steps(g.graph.call_function(node.target, (steps.node, index)), steps.count)  # type: ignore[arg-type]


def _trailing(axes: int) -> Rule:
    """An operation on the last axes, whatever comes before them."""

    def rule(g: SteppedGraph, node: Node, given: Arguments) -> Steps | None:
        if rank(given["self"]) < axes:
            return None
        steps = g.over_steps(given["self"])
        rest = tuple(g.original(node.args[1:]))
        return Steps(g.graph.call_function(node.target, (steps.node, *rest)), steps.count)  # type: ignore[arg-type]

    return rule


RULES: dict[str, Rule] = {
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    "neg": _neg,
    **dict.fromkeys(("mul", "div"), _times),
    **dict.fromkeys(("mm", "matmul"), _matmul),
    **dict.fromkeys(("mean", "sum"), _reduced),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "view_copy"), _reshape),
    **dict.fromkeys(("expand", "expand_copy"), _expand),
    "permute": _permute,
    "transpose": _transpose,
    **dict.fromkeys(
        "slice select narrow unsqueeze index_select split split_with_sizes unsafe_split chunk "
        "unbind unflatten".split(),
        _by_axis("dim"),
    ),
    "squeeze": _by_axis("dim"),
    **dict.fromkeys(("flip", "roll"), _by_axis("dims")),
    **dict.fromkeys(("cat", "stack"), _joined),
    **dict.fromkeys(("constant_pad_nd", "pad"), _pad),
    **dict.fromkeys(
        "alias clone contiguous detach lift_fresh_copy positive _to_copy".split(), _same
    ),
    "getitem": _getitem,
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _trailing(3)),
}
# What may read its signal elsewhere than first.
_SEVERAL = (_sum, _times, _joined, _getitem)
