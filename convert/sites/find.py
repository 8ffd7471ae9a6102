"""The graph walker: which values of a captured graph are sites."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from ..errors import SiteError
from ..graph import fold
from ..graph.edit import SITE_NAME
from ..graph.node_facts import read
from ..graph.operators import is_aten, operator_of
from ..graph.region_function import ExactFunction, describe, extract
from ..graph.regions import Regions, is_float, is_pointwise, packet
from ..graph.unroll import MARK
from .names import Names, module_name

aten = torch.ops.aten

# Calls that change the type alone.
_CASTS = frozenset("float double half bfloat16 to type type_as _to_copy".split())
# No slope of a function that is smooth at 0.
_STEEP = 2.0**40


@dataclass(frozen=True)
class Site:
    """One place where a nonlinear scalar function is applied to one tensor.

    A gate of a recurrent layer is one site, which is called at every time step.

    Args:
        name: module path of the call, or enclosing path and function.
        function: f as a module.
        label: f for the reader.
        module: name of f's module in the graph (a call_module node's target).
        node: the call_module node, the first if there are several.
        later: those of later time steps.
    """

    name: str
    function: ExactFunction
    label: str
    module: str
    node: Node
    later: tuple[Node, ...] = ()

    @property
    def calls(self) -> tuple[Node, ...]:
        """All calls of the site, in graph order."""
        return self.node, *self.later

    def values(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """f at points ``[B]``, float64."""
        with torch.no_grad():
            y: Tensor = self.function(torch.from_numpy(np.ascontiguousarray(x, np.float64)))
        return np.asarray(y.double().numpy())

    def sampled(self, x: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """f at points ``[B]``, computed in their own type, float32 or float64."""
        with torch.no_grad(), np.errstate(all="ignore"):
            return np.asarray(self.function(torch.from_numpy(np.ascontiguousarray(x))).numpy())

    @property
    def floor(self) -> float:
        """f at -inf, NaN or infinite where f has no value there."""
        return float(self.values(np.array([-np.inf]))[0])

    @property
    def masks(self) -> bool:
        """Whether -inf is a meaningful input, as in exp under a mask."""
        return bool(np.isfinite(self.floor))

    def hidden_below(self, value: float) -> float:
        """`value` where f is from there down what it is at -inf; else -inf."""
        return (
            value
            if self.masks and float(self.values(np.array([value]))[0]) == self.floor
            else -np.inf
        )

    @property
    def singular(self) -> bool:
        """Whether f or its slope has no bound at 0, as for an inverse, a root or a logarithm.

        There a range of decades matters throughout, not only where it is widest. A jump is none.
        """
        tiny = np.ldexp([-1.0, -1.0, 0.0, 1.0, 1.0], [-199, -200, 0, -200, -199])
        values = self.values(tiny)
        with np.errstate(all="ignore"):
            slopes = np.diff(values) / np.diff(tiny)
        # Where f jumps at 0 it is as flat before and behind as anywhere.
        beside = np.abs(slopes[[0, -1]])
        return not np.isfinite(values).all() or bool((beside > _STEEP).any())


@dataclass(frozen=True)
class _Found:
    """What becomes a site: the value, what its function takes, and the function with its names."""

    value: Node
    head: Node
    function: ExactFunction
    short: str
    label: str

    @property
    def shared(self) -> tuple[object, ...] | None:
        """What it has in common with the other time steps of a gate; None if it is no gate."""
        mark = self.value.meta.get(MARK)
        types = self.head.meta["val"].dtype, self.value.meta["val"].dtype
        return None if mark is None else (mark, self.label, *types)


def find_sites(graph_module: GraphModule) -> list[Site]:
    """Replaces every nonlinear region of a captured graph by a call of its exact function.

    Two-input nonlinearities are rewritten first, where that is exact. What the graph computes
    stays the same to rounding.

    Raises:
        SiteError: if there is nothing to replace.
    """
    _rewrite(graph_module)
    regions = Regions(graph_module)
    owners = _owners(graph_module)
    found = list(_nonlinear(graph_module, regions))
    if not found:
        raise SiteError(
            "the model has no nonlinear activation that a neuron could replace; convert a model "
            "with at least one (a linear model needs no conversion)"
        )
    groups = _grouped(found)
    names = _names(regions, owners, found, [group[0] for group in groups])
    sites = [_replace(graph_module, each, name) for each, name in zip(groups, names, strict=True)]
    fold.tidy(graph_module)
    left = set(graph_module.graph.nodes)
    kept = ((site, [call for call in site.calls if call in left]) for site in sites)
    return [replace(site, node=calls[0], later=(*calls[1:],)) for site, calls in kept if calls]


def _grouped(found: Sequence[_Found]) -> list[list[_Found]]:
    """What becomes one site: the time steps of a gate, any other value by itself."""
    groups: dict[object, list[_Found]] = {}
    for each in found:
        groups.setdefault(each.shared or each.value, []).append(each)
    return list(groups.values())


def _nonlinear(graph_module: GraphModule, regions: Regions) -> Iterator[_Found]:
    """Nonlinear values that are read outside their region, each function of each tensor once."""
    # Values that differ by a factor or an affine part alone are one function.
    planned: set[tuple[Node, tuple[tuple[Node, float], ...]]] = set()
    # A gate is the same function at every time step.
    known: dict[object, tuple[ExactFunction, str, str]] = {}
    for node in graph_module.graph.nodes:
        atoms = regions.form[node].atoms
        if not atoms or not is_float(node) or not regions.escapes(node):
            continue
        first = next(iter(atoms.values()))
        shares = sorted(((a, c / first) for a, c in atoms.items()), key=lambda p: p[0].name)
        key = (regions.root[node], tuple(shares))
        value = next(iter(atoms)) if len(atoms) == 1 else node
        if not is_float(value) or key in planned or value in regions.given:
            continue
        head = regions.head(value)
        if not is_float(head) or _preprocessing(regions, head, value):
            continue
        planned.add(key)
        mark = value.meta.get(MARK)
        step = (mark, value.target) if mark is not None and value.args == (head,) else value
        if step not in known:
            function = extract(regions, head, value)
            known[step] = function, *describe(function)
        yield _Found(value, head, *known[step])


def _replace(graph_module: GraphModule, group: Sequence[_Found], name: str) -> Site:
    """Puts the call of a site's function where each of its values was computed."""
    function, label = group[0].function, group[0].label
    module = f"sites.{module_name(name)}"
    graph_module.add_submodule(module, function)
    calls = [_called_for(graph_module, each, module) for each in group]
    return Site(name, function, label, module, calls[0], tuple(calls[1:]))


def _called_for(graph_module: GraphModule, found: _Found, module: str) -> Node:
    """A call of a site's module in place of a value."""
    value, head = found.value, found.head
    with graph_module.graph.inserting_before(value):
        call = graph_module.graph.call_module(module, (head,))
        call.meta = dict(value.meta)
        result = call
        if head.meta["val"].dtype != value.meta["val"].dtype:
            dtype = {"dtype": value.meta["val"].dtype}
            result = graph_module.graph.call_function(aten._to_copy.default, (call,), dtype)
            result.meta = dict(value.meta)
            call.meta["val"] = head.meta["val"]
    value.replace_all_uses_with(result)
    return call


def _rewrite(graph_module: GraphModule) -> None:
    """Nonlinearities of two varying tensors as scalar functions, sums and products."""
    regions = Regions(graph_module)
    for node in list(graph_module.graph.nodes):
        if not is_aten(node) or node not in regions.varying or not is_float(node):
            continue
        if not is_pointwise(node) or regions.root[node] is not node:
            continue
        new = _simpler(node, regions)
        if new is not None:
            node.replace_all_uses_with(new)
            graph_module.graph.erase_node(node)


def _simpler(node: Node, regions: Regions) -> Node | None:
    """What an operation is in simpler ones; None where it stays."""
    name, args = packet(node), node.args
    if name == "mul" and args[0] is not args[1] and _alike(args[0], args[1]):
        return _before(node, aten.mul.Tensor, args[0], args[0])
    if name == "div" and not node.kwargs:
        b = args[1]
        return _quotient(node, b) if isinstance(b, Node) and b in regions.varying else None
    if name in ("maximum", "minimum"):
        low, high = (args[1], None) if name == "maximum" else (None, args[1])
    elif name in ("clamp", "clamp_min", "clamp_max") and isinstance(args[0], Node):
        given = dict(zip(("min", "max"), args[1:3], strict=False)) | node.kwargs
        low, high = given.get("min"), given.get("max")
        if name == "clamp_max":
            low, high = None, args[1]
    else:
        return None
    if not all(bound is None or _bounded(bound, regions) for bound in (args[0], low, high)):
        return None
    new = args[0]
    if low is not None:
        new = _before(node, aten.add.Tensor, low, _ramp(node, new, low))
    if high is not None:
        new = _before(node, aten.sub.Tensor, new, _ramp(node, new, high))
    return new if isinstance(new, Node) else None


def _alike(a: Argument, b: Argument) -> bool:
    """Whether two values are the same one, moved in the same way, as in an einsum of squares."""
    if a is b or not isinstance(a, Node) or not isinstance(b, Node):
        return type(a) is type(b) and bool(a == b)
    row = operator_of(a)
    if a.target != b.target or row is None or not row.layout or a.kwargs or b.kwargs:
        return False
    pairs = zip(a.args, b.args, strict=False)
    return len(a.args) == len(b.args) and all(_alike(*pair) for pair in pairs)


def _bounded(value: Argument, regions: Regions) -> bool:
    """Whether a value may be added and taken away again: a signal, or finite numbers."""
    if not isinstance(value, Node) or value.op != "get_attr":
        return isinstance(value, Node) and is_float(value)
    bound = read(regions.graph_module, value)
    return isinstance(bound, Tensor) and bool(bound.isfinite().all())


def _ramp(node: Node, a: Argument, b: Argument) -> Node:
    """relu(a - b): max(a, b) = b + relu(a - b) and min(a, b) = a - relu(a - b)."""
    return _before(node, aten.relu.default, _before(node, aten.sub.Tensor, a, b))


def _quotient(node: Node, divisor: Node) -> Node:
    """a / b = a * (1 / b)."""
    inverse = _before(node, aten.reciprocal.default, divisor)
    inverse.meta["val"] = divisor.meta["val"]
    return _before(node, aten.mul.Tensor, node.args[0], inverse)


def _before(node: Node, target: OpOverload, *args: Argument) -> Node:
    """A call before a node, with the node's meta."""
    with node.graph.inserting_before(node):
        result = node.graph.call_function(target, args)
    result.meta = dict(node.meta)
    return result


def _preprocessing(regions: Regions, head: Node, value: Node) -> bool:
    """Whether a value is a clamp of the raw input: the image's own preprocessing."""
    if packet(value) not in ("clamp", "hardtanh"):
        return False
    bounds = list(value.args[1:3])
    if len(bounds) < 2 or any(regions.scalar(bound) is None for bound in bounds):
        return False
    node = head
    while node.op != "placeholder":
        varying = [i for i in node.all_input_nodes if i in regions.varying]
        affine = regions.root[node] is not node and not regions.form[node].atoms
        row = operator_of(node)
        moved = row is not None and row.framing
        if len(varying) != 1 or not (affine or moved):
            return False
        node = varying[0]
    return True


def _owners(graph_module: GraphModule) -> dict[str, set[Node]]:
    """The operations of every module call, by the key of its call in nn_module_stack."""
    owners: dict[str, set[Node]] = defaultdict(set)
    for node in graph_module.graph.nodes:
        if node.op == "call_function":
            owners[_stack(node)[0]].add(node)
    return owners


def _stack(node: Node) -> tuple[str, str]:
    """Key and path of the innermost module call that a node came from."""
    stack = list((node.meta.get("nn_module_stack") or {}).items())
    if not stack:
        return "", ""
    key, (path, *_) = stack[-1]
    return str(key), str(path).removeprefix("L['self'].").removeprefix("L['self']")


def _names(
    regions: Regions,
    owners: dict[str, set[Node]],
    found: Sequence[_Found],
    firsts: Sequence[_Found],
) -> list[str]:
    """A name for each site: its module's path where the site is all the module does.

    Args:
        regions: of the graph.
        owners: the operations of every module call.
        found: all values that get a neuron.
        firsts: the first value of each site.
    """
    sited = Counter(_stack(each.value)[0] for each in found)
    taken = Names()
    names = []
    for each in firsts:
        key, path = _stack(each.value)
        if each.shared is not None:
            name = each.value.meta[MARK].name
            names.append(taken.unique(f"{path}.{name}" if path else name))
            continue
        root = regions.root[each.value]
        alone = bool(path) and sited[key] == 1
        if alone and all(
            regions.root[node] is root and isinstance(node.meta.get("val"), Tensor)
            for node in owners[key]
        ):
            names.append(taken.unique(path))
        else:
            plain = _called(each)
            names.append(taken.unique(f"{path}.{plain}" if path else plain))
    return names


def _called(found: _Found) -> str:
    """What a site is called within its module: a hint, its function, or its last operation."""
    value = found.value
    function = (value.meta.get("torch_fn") or ("", ""))[1].rpartition(".")[2].strip("_")
    hint = str(value.meta.get(SITE_NAME) or "")
    if function in _CASTS:
        function = "step"  # a comparison or a rounding that becomes a number
    return hint or found.short or (function if function.isidentifier() else "") or packet(value)
