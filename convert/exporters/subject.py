"""What of a network is written out: its graph, its neurons, its signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..errors import ExportError, InputError
from ..graph.operators import is_aten
from ..graph.regions import Regions, packet
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron


@dataclass(frozen=True)
class Subject:
    """A network as others see it.

    Args:
        network: its graph; sites are called as modules.
        sites: name of each site by the path of its module.
        neurons: by the path of their module.
        signals: values that vary with the input and are no whole numbers or masks.
    """

    network: GraphModule
    sites: Mapping[str, str]
    neurons: Mapping[str, FewSpikesNeuron]
    signals: frozenset[Node]


def subject(snn: SpikingModel, form: str) -> Subject:
    """The network as its calls run just now.

    Args:
        snn: from `to_spiking`; inside `with_steps` its neurons of that K.
        form: what it becomes, for messages.

    Raises:
        InputError: inside a block that cuts neurons or runs exact functions, or in half precision.
        ExportError: for a module that is no few-spikes neuron.
    """
    if not isinstance(snn, SpikingModel):
        raise InputError(f"{form} is made of a converted network, found a {type(snn).__name__}")
    plan = snn.plan
    if plan.readout is not None or plan.spiking is not None:
        raise InputError(
            f"{form} holds whole neurons at every site; leave the block snn.readout(...) or "
            "snn.spiking_only(...)"
        )
    halves = {
        t.dtype
        for t in snn.network.state_dict().values()
        if t.is_floating_point() and t.dtype not in (torch.float32, torch.float64)
    }
    if halves:
        found = str(next(iter(halves))).removeprefix("torch.")
        raise InputError(f"{form} holds float32 or float64, found {found}; call snn.float() first")
    network = snn.as_planned(plan)
    network.eval()
    neurons = {}
    for node in network.graph.nodes:
        if node.op != "call_module":
            continue
        module = network.get_submodule(str(node.target))
        if type(module) is not FewSpikesNeuron:
            raise ExportError(
                f"{form} holds few-spikes neurons alone, found a {type(module).__name__} at "
                f"{node.target}; put a FewSpikesNeuron there"
            )
        neurons[str(node.target)] = module
    sites = {path: site for site, path in snn.names.items()}
    return Subject(network, sites, neurons, frozenset(Regions(network).signals))


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of an operation by name, with its defaults."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    found = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    found |= {a.name: value for a, value in zip(schema.arguments, node.args, strict=False)}
    return found | node.kwargs


def op_name(node: Node) -> str:
    """The name of ATen's operation that a node calls; another library's, or none, is empty."""
    if node.op == "call_function" and packet(node) == "getitem":
        return "getitem"
    return packet(node) if is_aten(node) else ""


def rank(node: Node) -> int:
    """How many axes a value has, with that of the images."""
    return int(node.meta["val"].dim())
