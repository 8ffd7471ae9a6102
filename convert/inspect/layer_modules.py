"""A module of torch's own for each weight layer of a graph: what counters look for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ..errors import InputError
from ..graph.node_facts import read, where
from ..graph.operators import operator_of
from ..graph.regions import packet
from .synapses import Connection, Passage

_CONVOLUTIONS: dict[tuple[int, bool], type[nn.Module]] = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}
# Products of a signal and a matrix: places of the signal and of the matrix.
_MATRICES = {"mm": (0, 1), "matmul": (0, 1), "addmm": (1, 2)}


def layer_modules(
    network: GraphModule, connections: Mapping[Node, Connection]
) -> dict[Node, nn.Module]:
    """A ``Conv`` or ``Linear`` for each layer that multiplies a signal by weights, by its node.

    They hold the network's own weights. A layer on trains has no bias, one on decoded values has
    the bias that it had. Factors of channels (batch norms that stand alone) are no layers.

    Args:
        network: the graph.
        connections: of the network.

    Raises:
        InputError: for weights that no such module can hold.
    """
    on_trains = _on_trains(network, connections)
    return {
        node: _module(network, node, bias=node not in on_trains)
        for node, connection in connections.items()
        if _is_layer(connection)
    }


def _is_layer(connection: Connection) -> bool:
    row = operator_of(connection.node)
    return (
        connection.passage is Passage.WEIGHTS
        and row is not None
        and row.weighted
        and bool(connection.signals)
    )


def _on_trains(network: GraphModule, connections: Mapping[Node, Connection]) -> set[Node]:
    """Layers that only spikes come to, with no weights between."""
    trains: set[Node] = set()
    sums = {node for node in network.graph.nodes if node.op == "placeholder"}
    found = set()
    for node, connection in connections.items():
        read_trains = any(n in trains for n in connection.signals)
        read_sums = any(n in sums for n in connection.signals)
        if connection.passage is Passage.SITE:
            trains.add(node)
        elif connection.passage is Passage.ROUTE and connection.signals:
            trains |= {node} if read_trains else set()
            sums |= {node} if read_sums else set()
        else:
            sums.add(node)
            if read_trains and not read_sums and len(connection.signals) == 1:
                found.add(node)
    return found


def _module(network: GraphModule, node: Node, bias: bool) -> nn.Module:
    given, name = _arguments(node), packet(node)
    if name == "linear":
        layer, weight = _linear(_tensor(network, node, given["weight"]), bias), given["weight"]
    elif name in _MATRICES:
        return _of_matrix(network, node, bias)
    elif "conv" in name:
        weight = given["weight"]
        layer = _convolution(given, name, _tensor(network, node, weight), bias)
    else:
        raise InputError(
            f"{where(node)} multiplies by weights as {name!r}, for which there is no module of "
            "torch that counters know; write it as nn.Linear or a convolution and convert again"
        )
    _put(layer, "weight", _tensor(network, node, weight))
    if bias:
        own = given.get("bias")
        _put(layer, "bias", None if own is None else _tensor(network, node, own))
    return layer


def _of_matrix(network: GraphModule, node: Node, bias: bool) -> nn.Module:
    """A product with a matrix on its right side, which the module holds transposed."""
    left, right = _MATRICES[packet(node)]
    matrix = node.args[right]
    plain = not any(node.kwargs.values()) and isinstance(matrix, Node) and matrix.op == "get_attr"
    tensor = _tensor(network, node, matrix) if plain else torch.empty(0)
    if tensor.dim() != 2:
        raise InputError(
            f"{where(node)} is a {packet(node)!r} whose weights aren't one matrix on the right "
            "side, and no module of torch stands for it; write it as nn.Linear and convert again"
        )
    layer = _linear(tensor.t(), bias)
    _put(layer, "weight", nn.Parameter(tensor.detach().t(), requires_grad=False))
    if bias:
        _put(layer, "bias", _tensor(network, node, node.args[0]) if left else None)
    return layer


def _linear(weight: Tensor, bias: bool) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], bias, device="meta")


def _convolution(given: Mapping[str, Any], name: str, weight: Tensor, bias: bool) -> nn.Module:
    dims, groups = weight.dim() - 2, int(given["groups"])
    transposed = bool(given.get("transposed", "transpose" in name))
    channels = (weight.shape[0], weight.shape[1] * groups)
    more = {"output_padding": _each(given["output_padding"], dims)} if transposed else {}
    return _CONVOLUTIONS[dims, transposed](
        *(channels if transposed else channels[::-1]),
        tuple(weight.shape[2:]),
        stride=_each(given["stride"], dims),
        padding=given["padding"]
        if isinstance(given["padding"], str)
        else _each(given["padding"], dims),
        dilation=_each(given["dilation"], dims),
        groups=groups,
        bias=bias,
        device="meta",
        **more,
    )


def _each(value: Any, dims: int) -> tuple[int, ...]:
    """A length for each axis."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(int(v) for v in (values * dims if len(values) == 1 else values))


def _arguments(node: Node) -> dict[str, Any]:
    """A call's arguments by name, with those that it leaves out."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    left_out = {a.name: a.default_value for a in schema if a.has_default_value()}
    names = [a.name for a in schema]
    return {**left_out, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _tensor(network: GraphModule, node: Node, given: Any) -> Tensor:
    """A tensor that the network holds."""
    if isinstance(given, Node) and given.op == "get_attr":
        found = read(network, given)
        if isinstance(found, Tensor):
            return found
    raise InputError(
        f"{where(node)} computes its weights anew in each call, so no layer can hold them; make "
        "them a parameter and convert again"
    )


def _put(layer: nn.Module, name: str, tensor: Tensor | None) -> None:
    """The network's own tensor as a module's, so that it is there once."""
    delattr(layer, name)
    if tensor is None or isinstance(tensor, nn.Parameter):
        layer.register_parameter(name, tensor)
    else:
        layer.register_buffer(name, tensor)
