"""The exact scalar function of a site: the region's own operations, runnable anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import Argument, map_arg

from .regions import Regions, is_float, packet

aten = torch.ops.aten

# Short name, what the report prints, and the function: names are for reading only.
_KNOWN: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    ("relu", "relu", F.relu),
    ("relu6", "relu6", F.relu6),
    ("silu", "x * sigmoid(x)", F.silu),
    ("gelu", "gelu", F.gelu),
    ("gelu", "gelu(tanh)", lambda x: F.gelu(x, approximate="tanh")),
    ("gelu", "x * sigmoid(1.702 x)", lambda x: x * torch.sigmoid(1.702 * x)),
    ("hardswish", "hardswish", F.hardswish),
    ("hardsigmoid", "hardsigmoid", F.hardsigmoid),
    ("hardtanh", "hardtanh", F.hardtanh),
    ("mish", "mish", F.mish),
    ("elu", "elu", F.elu),
    ("selu", "selu", F.selu),
    ("softplus", "softplus", F.softplus),
    ("logsigmoid", "logsigmoid", F.logsigmoid),
    ("softsign", "softsign", F.softsign),
    ("tanhshrink", "tanhshrink", F.tanhshrink),
    ("sigmoid", "sigmoid", torch.sigmoid),
    ("tanh", "tanh", torch.tanh),
    ("exp", "exp", torch.exp),
    ("log", "log", torch.log),
    ("abs", "abs", torch.abs),
    ("square", "square", torch.square),
    ("sqrt", "sqrt", torch.sqrt),
    ("rsqrt", "rsqrt", torch.rsqrt),
    ("reciprocal", "reciprocal", torch.reciprocal),
    ("leaky_relu", "leaky_relu", F.leaky_relu),
)


class ExactFunction(torch.nn.Module):
    """f of one site, elementwise, from the operations of its region.

    Args:
        graph_module: one placeholder, scalars folded in, one output.
        dtype: dtype of the value it stands for.
    """

    def __init__(self, graph_module: GraphModule, dtype: torch.dtype) -> None:
        super().__init__()
        self.region = graph_module
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """f(x), of x's shape; half precision is computed in float32."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return self.region(wide).to(x.dtype)


def may_alias(function: torch.nn.Module) -> bool:
    """Whether what a site's exact function returns may lie in the memory of its argument.

    The result of a pointwise operation whose schema tells of no alias is memory of its own.
    """
    if not isinstance(function, ExactFunction):
        return True
    result = next(n for n in reversed(function.region.graph.nodes) if n.op == "output").args[0]
    target = result.target if isinstance(result, Node) else None
    return not (
        isinstance(target, torch._ops.OpOverload)
        and torch.Tag.pointwise in target.tags
        and all(returned.alias_info is None for returned in target._schema.returns)
    )


def extract(regions: Regions, head: Node, value: Node) -> ExactFunction:
    """The function from `head` to `value`; without value's affine part where it has atoms beside.

    Both nodes belong to one region; scalars that the region reads become numbers.
    """
    graph = Graph()
    x = graph.placeholder("x")
    made: dict[Node, Node | bool | int | float] = {head: x}
    for node in _inside(regions, head, value):
        if node not in regions.varying and (number := regions.number(node)) is not None:
            made[node] = number
        elif _widens(node):
            made[node] = made[node.args[0]]  # type: ignore[index]
        else:
            made[node] = _copied(node, made, x, graph)
    graph.output(made[value])
    return ExactFunction(GraphModule({}, graph, class_name="Region"), value.meta["val"].dtype)


def _inside(regions: Regions, head: Node, value: Node) -> Iterator[Node]:
    """What leads from a head to a value, each after what it reads, the first argument first."""
    seen = {head}
    waiting = [(value, False)]
    while waiting:
        node, read = waiting.pop()
        if read:
            yield node
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(a, False) for a in reversed(_read(regions, node))]


def _read(regions: Regions, node: Node) -> list[Node]:
    """The arguments that a node of a region is computed from; none of one that is a number."""
    if node not in regions.varying and regions.number(node) is not None:
        return []
    return node.all_input_nodes[:1] if _widens(node) else node.all_input_nodes


def _widens(node: Node) -> bool:
    """Whether an operation changes the floating-point type and nothing else."""
    source = node.args[0] if node.args else None
    floats = isinstance(source, Node) and is_float(source) and is_float(node)
    return floats and packet(node) == "_to_copy"


def _copied(
    node: Node, made: Mapping[Node, Node | bool | int | float], x: Node, graph: Graph
) -> Node:
    """A node of a region as one of its function's graph."""
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda argument: made[argument])
    kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "layout")}
    if packet(node) == "_to_copy" and is_float(node):
        # Whole numbers or truth values become numbers of x's type, whichever that is.
        zeros = graph.call_function(aten.full_like.default, (x, 0.0))
        return graph.call_function(aten.add.Tensor, (zeros, args[0]))
    dtype = kwargs.get("dtype")
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        kwargs.pop("dtype")
    target: Any = node.target
    schema = target._schema.arguments
    plain = target in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
    fixed = []
    for argument, declared in zip(args, schema, strict=False):
        kept = plain and declared is not schema[0]
        fixed.append(argument if kept else _tensor(argument, declared, x, graph))
    for declared in schema:
        if declared.name in kwargs:
            kwargs[declared.name] = _tensor(kwargs[declared.name], declared, x, graph)
    return graph.call_function(target, tuple(fixed), kwargs)


def _tensor(argument: Any, declared: Any, x: Node, graph: Graph) -> Any:
    """A number as a tensor like x where an operation takes tensors only; else the argument."""
    tensors = str(declared.type) in ("Tensor", "Optional[Tensor]")
    if not tensors or not isinstance(argument, bool | int | float):
        return argument
    kind = {bool: torch.bool, int: torch.int64}.get(type(argument))
    dtype: dict[str, Argument] = {} if kind is None else {"dtype": kind}
    return graph.call_function(aten.full_like.default, (x, argument), dtype)


def describe(function: ExactFunction) -> tuple[str, str]:
    """A short name ('' if none is known) and a readable form of a site's function."""
    for low, high in ((-7.0, 7.0), (0.05, 7.0)):
        x = torch.linspace(low, high, 257, dtype=torch.float64)
        y = function(x)
        if not bool(y.isfinite().all()):
            continue
        # Mirrored only where nothing fits as it is: logsigmoid(x) is -softplus(-x).
        for sign in (1.0, -1.0) if low < 0 else (1.0,):
            for name, shown, known in _KNOWN:
                z = known(sign * x)
                if not bool(z.isfinite().all()):
                    continue
                scale = float((y * z).sum() / (z * z).sum().clamp_min(1e-300))
                if scale and bool((y - scale * z).abs().max() <= 1e-6 * y.abs().max()):
                    return name, shown if sign > 0 else f"{shown} of -x"
    return "", _expression(function)


# A region of many operations, each used twice, would have an expression of exponential length.
_LONGEST = 160

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "gt": ">", "lt": "<", "ge": ">="}


def _is_zero(value: Any) -> bool:
    return isinstance(value, Node) and packet(value) == "full_like" and value.args[1:] == (0.0,)


def _expression(function: ExactFunction) -> str:
    shown: dict[Node, str] = {}

    def text(value: Any) -> str:
        if isinstance(value, Node):
            return shown[value]
        return f"{value:.6g}" if isinstance(value, float) and math.isfinite(value) else str(value)

    for node in function.region.graph.nodes:
        name = packet(node) if node.op == "call_function" else ""
        if node.op == "placeholder":
            shown[node] = "x"
        elif node.op == "output":
            return text(node.args[0])
        elif name == "full_like":
            shown[node] = text(node.args[1])
        elif name == "add" and _is_zero(node.args[0]):
            shown[node] = text(node.args[1])  # a cast
        elif name in _INFIX and len(node.args) == 2:
            shown[node] = f"({text(node.args[0])} {_INFIX[name]} {text(node.args[1])})"
        elif name == "pow":
            shown[node] = f"{text(node.args[0])}^{text(node.args[1])}"
        elif name == "neg":
            shown[node] = f"-{text(node.args[0])}"
        else:
            listed = ", ".join(text(a) for a in node.args)
            shown[node] = f"{name}({listed})"
        if len(shown.get(node, "")) > _LONGEST:
            count = sum(n.op == "call_function" for n in function.region.graph.nodes)
            return f"a function of {count} operations ending in {name}"
    return "x"
