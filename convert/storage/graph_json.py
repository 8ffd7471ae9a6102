"""A graph as JSON and back: operators of the allow-list, numbers, and references to earlier nodes.

Reading builds the graph and infers every value's shape without data; it never runs it.
"""

from __future__ import annotations

import logging
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from ..errors import StorageError
from ..graph.origins import OUTPUT_OF
from .allowed_operators import name_of, resolve

# No value of a graph is larger than this for the batch that was captured.
_MOST_ELEMENTS = 2**31
_LARGEST = 2**62
# An operator that gives a list gives at most one tensor for each of so many places.
_MOST_PARTS = 2**14
_DEEPEST = 6
_DEVICE = re.compile(r"(cpu|meta|mps|(cuda|xpu)(:\d{1,3})?)", re.ASCII)
_KINDS: dict[str, dict[str, Any]] = {
    "dtype": {str(v).removeprefix("torch."): v for v in vars(torch).values()
              if isinstance(v, torch.dtype)},
    "memory_format": {str(v).removeprefix("torch."): v for v in (
        torch.contiguous_format, torch.channels_last, torch.channels_last_3d,
        torch.preserve_format)},
    "layout": {"strided": torch.strided},
}  # fmt: skip


def check_name(text: Any) -> str:
    """A dotted name whose parts are safe to write into source code, as fx does.

    Raises:
        StorageError: for anything else.
    """
    parts = text.split(".") if isinstance(text, str) and len(text) <= 1000 else [""]
    if not all(re.fullmatch(r"[\w-]+", part) and not part.startswith("__") for part in parts):
        raise StorageError(
            f"{text!r} can't be the name of a module or tensor in a saved network; use letters, "
            "digits, _ and -"
        )
    return str(text)


def write_graph(graph_module: GraphModule, called: Collection[str] = ()) -> list[dict[str, Any]]:
    """The nodes of a graph, in order.

    Args:
        graph_module: operations, tensors of its own, and calls of `called`.
        called: paths of modules that are stored in another way.

    Raises:
        StorageError: naming the operator or the value that can't be saved.
    """
    place: dict[Node, int] = {}
    rows = []
    for node in graph_module.graph.nodes:
        place[node] = len(place)
        row: dict[str, Any] = {"op": node.op, "name": check_name(node.name)}
        if node.op == "call_function":
            row["target"] = name_of(node.target)
            if resolve(row["target"]) is not node.target:
                raise StorageError(
                    f"the operator {row['target']} (node {node.name}) can't be saved: it isn't on "
                    "the list of operators without side effects that `load` accepts; keep the "
                    "network in memory, or rewrite that part of the model with ATen operations"
                )
        elif node.op == "call_module":
            if str(node.target) not in called:
                raise StorageError(f"the graph calls {node.target}, which is no neuron of a site")
            row["target"] = check_name(node.target)
        elif node.op == "get_attr":
            row["target"] = check_name(node.target)
        elif node.op not in ("placeholder", "output"):
            raise StorageError(f"a graph node of kind {node.op} ({node.name}) can't be saved")
        if node.op != "placeholder":
            row["args"] = [_encode(value, place, node) for value in node.args]
            if node.kwargs:
                row["kwargs"] = {k: _encode(v, place, node) for k, v in node.kwargs.items()}
        row |= _origin(node)
        rows.append(row)
    return rows


def _origin(node: Node) -> dict[str, Any]:
    """Where a node comes from: module calls and the line of the source, without its folder."""
    row: dict[str, Any] = {}
    stack = node.meta.get("nn_module_stack") or {}
    if stack and node.op.startswith("call"):
        row["modules"] = [
            [str(key), str(path).removeprefix("L['self'].").removeprefix("L['self']")]
            for key, (path, *_) in stack.items()
        ]
    if node.meta.get(OUTPUT_OF):
        row["output_of"] = list(node.meta[OUTPUT_OF])
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    if lines and node.op.startswith("call"):
        row["line"] = [re.split(r"[/\\]", lines[-1][0])[-1], int(lines[-1][1])]
    return row


def _encode(value: Any, place: dict[Node, int], owner: Node) -> Any:
    if isinstance(value, Node):
        return {"node": place[value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_encode(entry, place, owner) for entry in value]
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, known in _KINDS.items():
        for name, thing in known.items():
            if value is thing:
                return {kind: name}
    raise StorageError(
        f"an argument of {name_of(owner.target)} (node {owner.name}) is a "
        f"{type(value).__name__}, which can't be saved: {str(value)[:80]}"
    )


def read_graph(
    rows: Any, root: torch.nn.Module, called: Collection[str], device: torch.device
) -> GraphModule:
    """The graph that `write_graph` wrote.

    Args:
        rows: its nodes.
        root: holds the tensors and modules that the nodes name.
        called: paths of the modules that may be called.
        device: stands where operators name a device.

    Raises:
        StorageError: for an operator off the list, a reference that isn't to an earlier node, or
            anything else that `write_graph` doesn't write.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise StorageError("the graph is no list of nodes; the file is damaged")
    graph, modules = Graph(), dict(root.named_modules())
    made: list[Node] = []
    for row in rows:
        if made and made[-1].op == "output":
            raise StorageError("the graph goes on after its output; the file is damaged")
        node = _node(graph, row, made, modules, called, device)
        _restore_origin(node, row)
        made.append(node)
    if not made or made[-1].op != "output":
        raise StorageError("the graph has no output; the file is damaged")
    graph.lint()
    return GraphModule(root, graph, class_name="Captured").eval()


def _node(
    graph: Graph,
    row: dict[str, Any],
    made: list[Node],
    modules: dict[str, torch.nn.Module],
    called: Collection[str],
    device: torch.device,
) -> Node:
    op, name = row.get("op"), check_name(row.get("name"))
    known = {"op", "name", "target", "args", "kwargs", "modules", "output_of", "line"}
    if not set(row) <= known or "." in name or not name.isidentifier():
        raise StorageError(f"node {name!r} is not one that was saved; the file is damaged")
    label: Any = row.get("target", name)
    target: Any = label
    args, kwargs = row.get("args", []), row.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(label, str):
        raise StorageError(f"node {name}: its arguments are damaged")
    if op == "call_function":
        target = resolve(label)
        if target is None:
            raise StorageError(
                f"node {name}: the operator {label[:100]!r} isn't on the list of operators without "
                "side effects; the file was not written by this version, or was tampered with"
            )
    elif op == "call_module":
        if label not in called:
            raise StorageError(f"node {name} calls {label[:100]!r}, which is no neuron of the file")
    elif op == "get_attr":
        owner, _, attribute = check_name(label).rpartition(".")
        module = modules.get(owner)
        if module is None or not isinstance(
            module._parameters.get(attribute, module._buffers.get(attribute)), Tensor
        ):
            raise StorageError(f"node {name} reads the tensor {label[:100]!r}, which is missing")
    elif op not in ("placeholder", "output"):
        raise StorageError(f"node {name} is of the unknown kind {str(op)[:40]!r}")
    if op in ("placeholder", "get_attr") and (args or kwargs):
        raise StorageError(f"node {name} takes no arguments; the file is damaged")
    decoded = tuple(_decode(value, made, device, name) for value in args)
    named = {check_name(k): _decode(v, made, device, name) for k, v in kwargs.items()}
    if op == "output":
        leaves = decoded[0] if len(decoded) == 1 and not named else None
        if not isinstance(leaves, list | Node):
            raise StorageError("the graph's output is damaged")
        decoded = (tuple(leaves) if isinstance(leaves, list) else leaves,)
    node = graph.create_node(op, target, decoded, named, name=name)
    if node.name != name:
        raise StorageError(f"two nodes are called {name}; the file is damaged")
    return node


def _restore_origin(node: Node, row: dict[str, Any]) -> None:
    stack, line, layers = row.get("modules", []), row.get("line"), row.get("output_of", [])
    pairs = isinstance(stack, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair)
        for pair in stack
    )
    if not pairs or not isinstance(layers, list) or any(type(name) is not str for name in layers):
        raise StorageError(f"node {node.name}: its module calls are damaged")
    if stack:
        node.meta["nn_module_stack"] = {key: (path, "") for key, path in stack}
    if layers:
        node.meta[OUTPUT_OF] = layers
    if line is not None:
        if not (isinstance(line, list) and [type(part) for part in line] == [str, int]):
            raise StorageError(f"node {node.name}: its line of the source is damaged")
        node.meta["stack_trace"] = f'File "{line[0]}", line {line[1]}, in forward'


def _decode(value: Any, made: list[Node], device: torch.device, name: str, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise StorageError(f"node {name}: its arguments are nested too deeply")
    if isinstance(value, bool | float | str) or value is None:
        return value
    if isinstance(value, int):
        if abs(value) >= 2**63:
            raise StorageError(f"node {name}: the number {value} is out of range")
        return value
    if isinstance(value, list):
        return [_decode(entry, made, device, name, depth + 1) for entry in value]
    if isinstance(value, dict) and len(value) == 1:
        ((kind, content),) = value.items()
        if kind == "node" and type(content) is int:
            if 0 <= content < len(made) and made[content].op != "output":
                return made[content]
            raise StorageError(
                f"node {name} refers to node {content}, which doesn't come before it: a cycle or a "
                "gap; the file is damaged"
            )
        if kind == "float" and content in ("inf", "-inf", "nan"):
            return float(content)
        if kind == "device" and isinstance(content, str) and _DEVICE.fullmatch(content):
            return device
        if kind in _KINDS and isinstance(content, str) and content in _KINDS[kind]:
            return _KINDS[kind][content]
    raise StorageError(f"node {name}: the argument {str(value)[:80]} is damaged")


def infer(
    graph_module: GraphModule,
    inputs: list[tuple[tuple[int, ...], torch.dtype] | None],
    batch: int,
    called: Collection[str],
) -> list[Any]:
    """Fills in the shape and dtype of every value (`meta["val"]`) without data.

    Args:
        graph_module: the graph.
        inputs: shape and dtype of each placeholder, None for one that isn't a tensor.
        batch: the batch size in them.
        called: modules that keep shape and dtype.

    Returns:
        For each node its ``[dtype, *shape]``, a number, a list of these, or None.

    Raises:
        StorageError: if an operator doesn't fit its arguments, or a value is too large.
    """
    tensors = dict(graph_module.named_parameters(remove_duplicate=False)) | dict(
        graph_module.named_buffers(remove_duplicate=False)
    )
    remaining = list(inputs)
    values: dict[Node, Any] = {}
    mode = FakeTensorMode(allow_fallback_kernels=False)
    with mode, torch.no_grad(), _silent():
        for node in graph_module.graph.nodes:
            try:
                values[node] = _value(node, values, tensors, remaining, mode, called)
            except StorageError:
                raise
            except Exception as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise StorageError(
                    f"node {node.name} ({name_of(node.target)}) doesn't fit its arguments: "
                    f"{lines[0][:200]}; the graph is damaged"
                ) from error
            _check_size(node, values[node])
            if node.op == "placeholder":
                node.meta["batch"] = batch
            if node.op != "output":
                node.meta["val"] = values[node]
    if remaining:
        raise StorageError("the graph takes fewer inputs than the network; the file is damaged")
    return [_shown(value) for value in values.values()]


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps torch from logging a traceback of what becomes an error message here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _value(
    node: Node,
    values: dict[Node, Any],
    tensors: dict[str, Tensor],
    remaining: list[tuple[tuple[int, ...], torch.dtype] | None],
    mode: FakeTensorMode,
    called: Collection[str],
) -> Any:
    if node.op == "placeholder":
        if not remaining:
            raise StorageError("the graph takes more inputs than the network; it is damaged")
        described = remaining.pop(0)
        return None if described is None else torch.empty(described[0], dtype=described[1])
    if node.op == "get_attr":
        return mode.from_tensor(tensors[str(node.target)], static_shapes=True)
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "output":
        return args[0]
    if node.op == "call_module":
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
            raise StorageError(f"the neuron {node.target} takes one tensor")
        if not args[0].is_floating_point():
            raise StorageError(f"the neuron {node.target} takes floating-point numbers")
        return args[0]
    _bounded(node, args, kwargs)
    function: Callable[..., Any] = node.target  # type: ignore[assignment]
    return function(*args, **kwargs)


def _bounded(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses calls whose shape alone would take long or much memory to find."""
    if isinstance(node.target, torch._ops.OpOverload):
        if not any("List" in str(r.type) for r in node.target._schema.returns):
            return
        leaves = pytree.tree_leaves((args, kwargs))
        lengths = [n for leaf in leaves if isinstance(leaf, Tensor) for n in leaf.shape]
        lengths += [leaf for leaf in leaves if isinstance(leaf, int)]
        if max(lengths, default=0) > _MOST_PARTS:
            raise StorageError(f"node {node.name} ({name_of(node.target)}) gives too many parts")
        return
    numbers = args[1:] if node.target is operator.getitem else args
    # Python would repeat a list or a text, and knows whole powers of any length.
    if kwargs or not all(isinstance(a, int | float) for a in numbers):
        raise StorageError(f"node {node.name} ({name_of(node.target)}) takes numbers only")
    if node.target is operator.pow and (abs(args[0]) > 2**16 or abs(args[1]) > 4):
        raise StorageError(f"node {node.name}: {args[0]} ** {args[1]} is no size")


def _check_size(node: Node, value: Any) -> None:
    for entry in value if isinstance(value, tuple | list) else [value]:
        large = (isinstance(entry, Tensor) and entry.numel() > _MOST_ELEMENTS) or (
            isinstance(entry, int) and abs(entry) > _LARGEST
        )
        if large:
            raise StorageError(
                f"node {node.name} has a size beyond {_MOST_ELEMENTS:,} elements; the file is "
                "damaged or was tampered with"
            )


def _shown(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [str(value.dtype).removeprefix("torch."), *value.shape]
    if isinstance(value, tuple | list):
        return [_shown(entry) for entry in value]
    return value if isinstance(value, bool | int | float) else None
