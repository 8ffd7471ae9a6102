"""Neurons on analog operands, so that every multiplication is driven by spikes.

A product of two signals, a norm or a pooled maximum gives an analog value. Where one enters a
weight layer or another product, an identity neuron (f(x) = x, both signs) passes it on as spikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from ..graph import fold
from ..graph.operators import operator_of
from ..graph.origins import OUTPUT_OF
from ..graph.region_function import ExactFunction
from ..graph.regions import Regions, is_float, packet
from ..graph.roles import Operation, Role, Signal, operands, operations
from ..graph.unroll import MARK, Mark
from .find import Site
from .names import Names, module_name

# What such a site computes, in the report.
IDENTITY = "identity"
# Pointwise scalings count as multiplications, but follow what their own input became.
_SCALINGS = ("mul", "div")


def encode_operands(
    graph_module: GraphModule, sites: Sequence[Site], encode: bool | str
) -> list[Site]:
    """All sites in graph order, identity sites on analog operands among them.

    Args:
        graph_module: a captured graph whose sites are called as modules; changed in place.
        sites: those sites.
        encode: False leaves the graph as it is. True encodes the analog operands of products and
            weight layers but for the image, ``"all"`` the image (every floating-point input) too.
    """
    if not encode:
        return list(sites)
    made = _Identities(graph_module, Names(site.name for site in sites))
    if encode == "all":
        inputs = [n for n in graph_module.graph.nodes if n.op == "placeholder" and is_float(n)]
        for node in filter(_computed_with, inputs):
            made.insert(node, f"{node.name}.encode", whole=True)
    # What is analog without any of these neurons gets one: q, k and v although the norm before
    # them has one too. Then what is still left.
    for scalings in (False, True):
        regions = Regions(graph_module)
        for operation, side, value in _analog(
            graph_module, regions, [*sites, *made.sites.values()], scalings
        ):
            if encode == "all" or not _is_image(value, regions):
                mark = value.meta.get(MARK)
                name = side if mark is None else f"{mark.name}.encode"
                made.insert(value, f"{operation.where}.{name}", shared=mark)
    fold.tidy(graph_module)
    order = {node: i for i, node in enumerate(graph_module.graph.nodes)}
    return sorted([*sites, *made.sites.values()], key=lambda site: order[site.node])


def _computed_with(value: Node) -> bool:
    """Whether an operation reads a value; one that nothing reads, or that is returned, stays."""
    return any(user.op != "output" for user in value.users)


def _analog(
    graph_module: GraphModule, regions: Regions, sites: Sequence[Site], scalings: bool
) -> list[tuple[Operation, str, Node]]:
    """Analog operands of multiplications: the operation, which operand, and its value."""
    result: dict[Node, tuple[Operation, str, Node]] = {}
    for operation in operations(graph_module, {site.module for site in sites}):
        scaling = operation.kind is Role.SYNAPTIC and packet(operation.node) in _SCALINGS
        if not operation.multiply_accumulates or (scaling and not scalings):
            continue
        values = operands(operation.node, regions)
        sides = ("input",) if len(values) == 1 else ("left", "right")
        for value, side, signal in zip(values, sides, operation.inputs, strict=False):
            while packet(value) == "expand" and isinstance(value.args[0], Node):
                value = value.args[0]  # before it is copied: fewer neurons
            if signal is Signal.ANALOG:
                result.setdefault(value, (operation, side, value))
    return list(result.values())


def _is_image(value: Node, regions: Regions) -> bool:
    """Whether a value is an input of the network, moved or rescaled."""
    while value.op != "placeholder":
        inputs = [i for i in value.all_input_nodes if i in regions.varying]
        affine = regions.root[value] is not value and not regions.form[value].atoms
        scaled = packet(value) in ("add", "sub", *_SCALINGS) and is_float(value)
        row = operator_of(value)
        moved = row is not None and row.layout
        if len(inputs) != 1 or not (affine or scaled or moved):
            return False
        value = inputs[0]
    return True


class _Identities:
    """The identity sites of a graph.

    Args:
        graph_module: changed in place.
        taken: the names of its sites.

    Attributes:
        sites: those that were inserted, by what they encode: a value, or what is one neuron at
            every time step of a recurrent layer.
    """

    def __init__(self, graph_module: GraphModule, taken: Names) -> None:
        self.graph_module, self._taken = graph_module, taken
        self.sites: dict[object, Site] = {}

    def insert(
        self, value: Node, wanted: str, *, whole: bool = False, shared: Mark | None = None
    ) -> None:
        """Puts an identity site behind a value, for the multiplications that read the value.

        Args:
            value: what is encoded.
            wanted: name of the site.
            whole: whether everything else that reads the value, but for the output, reads it too.
            shared: what other time steps of the value have in common with it.
        """
        key: object = value if shared is None else (shared, value.meta["val"].dtype)
        site = self.sites.get(key)
        if site is not None:
            call = self._called(value, site.module, whole)
            self.sites[key] = replace(site, later=(*site.later, call))
            return
        name = self._taken.unique(wanted)
        module = f"sites.{module_name(name)}"
        function = _identity(value.meta["val"])
        self.graph_module.add_submodule(module, function)
        call = self._called(value, module, whole)
        self.sites[key] = Site(name, function, IDENTITY, module, call)

    def _called(self, value: Node, module: str, whole: bool) -> Node:
        with self.graph_module.graph.inserting_after(value):
            call = self.graph_module.graph.call_module(module, (value,))
        # The value itself stays what its layer returns.
        call.meta = {key: entry for key, entry in value.meta.items() if key != OUTPUT_OF}
        value.replace_all_uses_with(
            call,
            lambda user: user is not call and (user.op != "output" if whole else _multiplies(user)),
        )
        return call


def _multiplies(user: Node) -> bool:
    """Whether a reader multiplies; a skip beside the layer keeps the value itself."""
    if packet(user) == "expand":
        return any(_multiplies(reader) for reader in user.users)
    row = operator_of(user)
    return packet(user) in _SCALINGS or (row is not None and row.weighted)


def _identity(like: Tensor) -> ExactFunction:
    graph = Graph()
    graph.output(graph.placeholder("x"))
    return ExactFunction(GraphModule({}, graph, class_name="Region"), like.dtype)
