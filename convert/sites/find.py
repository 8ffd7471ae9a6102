"""The graph walker: which values of a captured graph are sites."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..errors import SiteError
from ..graph import fold
from ..graph.edit import SITE_NAME
from ..graph.operators import operator_of
from ..graph.region_function import ExactFunction, describe, extract
from ..graph.regions import Regions, is_float, is_pointwise, packet

aten = torch.ops.aten

# No slope of a function that is smooth at 0.
_STEEP = 2.0**40


@dataclass(frozen=True)
class Site:
    """One place where a nonlinear scalar function is applied to one tensor.

    Args:
        name: module path of the call, or enclosing path and function.
        function: f as a module.
        label: f for the reader.
        module: name of f's module in the graph (a call_module node's target).
        node: the call_module node.
    """

    name: str
    function: ExactFunction
    label: str
    module: str
    node: Node

    def values(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """f at points ``[B]``, float64."""
        with torch.no_grad():
            y: Tensor = self.function(torch.from_numpy(np.ascontiguousarray(x, np.float64)))
        return np.asarray(y.double().numpy())

    @property
    def masks(self) -> bool:
        """Whether -inf is a meaningful input, as in exp under a mask."""
        return bool(np.isfinite(self.values(np.array([-np.inf]))).all())

    @property
    def singular(self) -> bool:
        """Whether f or its slope has no bound at 0, as for an inverse, a root or a logarithm.

        There a range of decades matters throughout, not only where it is widest.
        """
        tiny = np.ldexp([-1.0, 0.0, 1.0], [-200, 0, -200])
        values = self.values(tiny)
        with np.errstate(all="ignore"):
            slopes = np.diff(values) / np.diff(tiny)
        return not np.isfinite(values).all() or bool((np.abs(slopes) > _STEEP).any())


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
    planned: dict[tuple[Node, tuple[tuple[Node, float], ...]], Node] = {}
    replaced: list[tuple[Node, Node, str, str, ExactFunction]] = []
    for node in list(graph_module.graph.nodes):
        form = regions.form[node]
        if not form.atoms or not is_float(node) or not regions.escapes(node):
            continue
        first = next(iter(form.atoms.values()))
        key = tuple(
            sorted(((a, c / first) for a, c in form.atoms.items()), key=lambda p: p[0].name)
        )
        value = next(iter(form.atoms)) if len(form.atoms) == 1 else node
        if not is_float(value) or (regions.root[node], key) in planned:
            continue
        head = regions.head(value)
        if not is_float(head) or value in regions.given or _preprocessing(regions, head, value):
            continue
        planned[(regions.root[node], key)] = value
        function = extract(regions, head, value)
        short, label = describe(function)
        replaced.append((value, head, short, label, function))
    if not replaced:
        raise SiteError(
            "the model has no nonlinear activation that a neuron could replace; convert a model "
            "with at least one (a linear model needs no conversion)"
        )
    names = _names(regions, owners, replaced)
    sites = []
    for (value, head, _, label, function), name in zip(replaced, names, strict=True):
        module = f"sites.{name.replace('.', '_')}"
        graph_module.add_submodule(module, function)
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
        sites.append(Site(name, function, label, module, call))
    fold.tidy(graph_module)
    return [site for site in sites if site.node in set(graph_module.graph.nodes)]


def _rewrite(graph_module: GraphModule) -> None:
    """Nonlinearities of two varying tensors as scalar functions, sums and products."""
    graph = graph_module.graph
    regions = Regions(graph_module)
    for node in list(graph.nodes):
        name = packet(node) if node.op == "call_function" else ""
        if name not in ("maximum", "minimum", "div") or node not in regions.varying:
            continue
        if not is_pointwise(node) or regions.root[node] is not node or not is_float(node):
            continue
        a, b = node.args[:2]
        with graph.inserting_before(node):

            def call(target: object, *args: object, like: Node = node) -> Node:
                result = graph.call_function(target, args)  # type: ignore[arg-type]
                result.meta = dict(like.meta)
                return result

            if name == "div":
                if not isinstance(b, Node) or b not in regions.varying or node.kwargs:
                    continue
                inverse = call(aten.reciprocal.default, b)
                inverse.meta["val"] = b.meta["val"]
                new = call(aten.mul.Tensor, a, inverse)
            else:
                ramp = call(aten.relu.default, call(aten.sub.Tensor, a, b))
                new = (
                    call(aten.add.Tensor, b, ramp)
                    if name == "maximum"
                    else call(aten.sub.Tensor, a, ramp)
                )
        node.replace_all_uses_with(new)
        graph.erase_node(node)


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
    replaced: list[tuple[Node, Node, str, str, ExactFunction]],
) -> list[str]:
    sited: dict[str, int] = Counter(_stack(entry[0])[0] for entry in replaced)
    taken: set[str] = set()
    names = []
    for value, _, short, _, _ in replaced:
        key, path = _stack(value)
        root = regions.root[value]
        own = all(
            regions.root[node] is root and isinstance(node.meta.get("val"), Tensor)
            for node in owners[key]
        )
        if path and own and sited[key] == 1:
            name = path
        else:
            function = (value.meta.get("torch_fn") or ("", ""))[1].rpartition(".")[2].strip("_")
            hint = str(value.meta.get(SITE_NAME) or "")
            plain = hint or short or (function if function.isidentifier() else "") or packet(value)
            name = f"{path}.{plain}" if path else plain
        unique, count = name, 0
        mangled = {n.replace(".", "_") for n in taken}
        while unique in taken or unique.replace(".", "_") in mangled:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique)
        names.append(unique)
    return names
