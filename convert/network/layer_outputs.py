"""The values inside a network: what a layer returns, by its module path."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from ..errors import InputError
from ..graph import origins as layers
from .model import SpikingModel


class Features(torch.nn.Module):
    """A network up to some of its layers; shares weights and neurons with where it comes from.

    Args:
        network: graph with one output for each layer.
        layers: their names.
        snn: the network that it is a part of.
    """

    def __init__(self, network: GraphModule, layers: list[str], snn: SpikingModel) -> None:
        super().__init__()
        self.network, self.layers, self.signature = network, layers, snn.signature
        # In a list: no module of this one.
        self._whole = [snn]
        self._runner = snn.runner(network)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The layers' outputs by name, for the inputs that the network takes.

        Blocks of the network, such as `readout`, hold here too.
        """
        (snn,) = self._whole
        leaves, plan = self.signature.flatten(args, kwargs), snn.plan
        if torch.compiler.is_compiling() and plan.plain:
            outputs = self.network(*leaves)
        else:
            # Another graph keeps other values.
            plan = replace(plan, kept=None)
            outputs = snn.run_by(self._runner, self.network, leaves, plan)
        return dict(zip(self.layers, outputs, strict=True))

    def __reduce__(self) -> Any:
        return features, (self._whole[0], self.layers)

    def __deepcopy__(self, memo: dict[int, Any]) -> Features:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()})
        return copied


def features(snn: SpikingModel, names: Iterable[str]) -> Features:
    """The part of a network that computes the outputs of some layers; the rest isn't run.

    Args:
        snn: the network; loaded ones know their layers too.
        names: module paths of the original model (``"layer3"``), call sites (``"layer3.0.relu"``),
            or a later call of a module or site that is called more than once (``"relu@1"``). Where
            batch norm was folded into a layer, the layer's output is the norm's. A layer that
            computes nothing, or whose output became the inside of a later site, has no output.

    Raises:
        InputError: naming a layer that the graph doesn't have, with those that are near.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise InputError("features of no layer; name at least one module path")
    found = _outputs(snn)
    for name in names:
        if name not in found:
            near = get_close_matches(name, found, 4, 0.3) or list(found)[:4]
            raise InputError(
                f"the graph has no output of {name!r} (a batch norm folded into the layer before "
                "it, and a layer whose output a later activation took in, have none); there are "
                f"e.g. {', '.join(near)}"
            )
    graph = Graph()
    copies: dict[Node, Node] = {}
    graph.graph_copy(snn.network.graph, copies)
    graph.output(tuple(copies[found[name]] for name in names))
    # Placeholders stay, whether or not they are read.
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return Features(GraphModule(snn.network, graph, "Features"), names, snn).train(snn.training)


def _outputs(snn: SpikingModel) -> dict[str, Node]:
    """The node that holds a layer's output, by module path (and call) or site."""
    found = layers.outputs(snn.network.graph)
    count: dict[str, int] = {}
    sites = {path: site for site, path in snn.names.items()}
    for node in snn.network.graph.nodes:
        site = sites.get(str(node.target)) if node.op == "call_module" else None
        if site is not None:
            call = count.get(site, 0)
            found.setdefault(f"{site}@{call}" if call else site, node)
            count[site] = call + 1
    return found
