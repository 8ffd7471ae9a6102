"""A network that gives the spikes of every site beside its outputs."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ..neuron.few_spikes import FewSpikesNeuron


class SpikesBeside(torch.nn.Module):
    """A neuron that gives its output and its spikes, step by step.

    Args:
        neuron: the neuron.
    """

    def __init__(self, neuron: FewSpikesNeuron) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output for ``x [...]``, spikes bool ``[K, ...]``, and the table of each value, int64.

        The output is added up as the neuron's own, in the same order.
        """
        neuron = self.neuron
        v = x.to(torch.promote_types(x.dtype, neuron.thresholds.dtype))
        spikes, interval = neuron.spikes(v), neuron.interval(v)
        d, offset = neuron.weights, neuron.offset
        if neuron.gates is not None:
            d, offset = d.t()[:, interval], offset[interval]
        y = torch.zeros_like(v) + offset
        for t in range(neuron.steps):
            y = y + d[t] * spikes[t].to(v.dtype)
        return torch.where(v != v, v, y).to(x.dtype), spikes, interval


def give_spikes(network: GraphModule, sites: Mapping[str, str]) -> list[str]:
    """Makes a network give every site's spikes, and with gates the table of each value.

    Args:
        network: changed in place; its sites are called as modules.
        sites: name of each site by the path of its module.

    Returns:
        The names of all outputs: ``output0``, ..., ``spikes.SITE`` bool ``[K, N, ...]``,
        ``interval.SITE`` int64 ``[N, ...]``. Later calls of a site have ``@2`` ... behind them.
    """
    graph = network.graph
    calls: Counter[str] = Counter()
    more: dict[str, Any] = {}
    for node in list(graph.nodes):
        path = str(node.target)
        if node.op != "call_module" or path not in sites:
            continue
        module = network.get_submodule(path)
        neuron = module.neuron if isinstance(module, SpikesBeside) else module
        assert isinstance(neuron, FewSpikesNeuron)
        if neuron is module:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, SpikesBeside(neuron))
        calls[path] += 1
        name = sites[path] + (f"@{calls[path]}" if calls[path] > 1 else "")
        with graph.inserting_after(node):
            parts = [graph.call_function(operator.getitem, (node, i)) for i in range(3)]
        node.replace_all_uses_with(parts[0], lambda user, own=tuple(parts): user not in own)
        more[f"spikes.{name}"] = parts[1]
        if neuron.gates is not None:
            more[f"interval.{name}"] = parts[2]
    (last,) = (node for node in graph.nodes if node.op == "output")
    returned: Any = last.args[0]
    tensors = [leaf for leaf in returned if isinstance(leaf, torch.fx.Node)]
    last.args = ([*returned, *more.values()],)
    network.recompile()
    return [*(f"output{i}" for i in range(len(tensors))), *more]
