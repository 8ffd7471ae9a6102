"""A network as a plain module of SpikingJelly's and PyTorch's own parts."""

from __future__ import annotations

import operator
from typing import Any

import torch
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..graph.node_facts import read, where
from ..graph.operators import is_aten
from ..graph.regions import packet
from ..graph.roles import Role, operations
from ..graph.run import compute
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from .stepped_graph import SteppedGraph, Steps
from .stepped_layers import layer_behind, multi_step
from .stepped_rules import behind, shifted
from .subject import Subject, op_name, subject

_BUILT_IN = (list, tuple, dict, None)


def to_spikingjelly(snn: SpikingModel) -> GraphModule:
    """The network as a module of SpikingJelly layers in multi-step mode.

    It is called with the tensors of the original's call, in their order, and returns what the
    original returns (a flat tuple where that is of a class of its own). Between the sites run
    weighted spikes ``[K, N, ...]``, which linear layers take step by step. Nothing in it is of this
    package: `torch.save` of it loads where SpikingJelly alone is installed. Sites with another K
    than those before get the steps that are missing as zeros, or the sum of all steps first.

    Its ``report`` is a dict: ``sites`` (module, steps, tables, y0 of each), ``layers`` (what acts
    on weighted spikes), ``decoded`` (what takes the decoded sums, and why).

    Args:
        snn: from `to_spiking`; inside `with_steps` its neurons of that K are taken.

    Raises:
        InputError: for what is no converted network, is in half precision, or is cut by a block.
        ExportError: for a module or function that only this package knows.
    """
    taken = subject(snn, "a SpikingJelly module")
    return _Translation(snn, taken).module()


class _Translation:
    """One network on its way.

    Args:
        snn: the network.
        taken: what of it is translated.
    """

    def __init__(self, snn: SpikingModel, taken: Subject) -> None:
        self.snn, self.taken, self.g = snn, taken, SteppedGraph(taken)
        roles = operations(taken.network, set(taken.neurons))
        self.roles = {found.node: found.kind for found in roles}
        self.report: dict[str, Any] = {"sites": {}, "layers": [], "decoded": []}

    def module(self) -> GraphModule:
        """The new module."""
        g = self.g
        inputs = zip(self.snn.signature.inputs, self.snn.signature.constants, strict=True)
        for node in self.taken.network.graph.nodes:
            if node.op == "placeholder":
                tensor, constant = next(inputs)
                g.plain[node] = constant if tensor is None else g.graph.placeholder(node.name)
            elif node.op == "call_module":
                g.stepped[node] = self._site(node)
            elif node.op == "call_function":
                self._operation(node)
            elif node.op == "output":
                g.graph.output(self._outputs(g.original(node.args[0])))
        made = GraphModule(g.root, g.graph, "SpikingJellyNetwork")
        made.graph.eliminate_dead_code()
        made.recompile()
        made.report = self.report  # type: ignore[assignment]
        return made.eval()

    def _outputs(self, returned: Any) -> Any:
        """What the new graph returns: the original's form, where anybody can read it."""
        spec = self.snn.signature.out_spec
        leaves = pytree.tree_leaves(returned, is_leaf=lambda v: isinstance(v, Node))
        if len(leaves) == spec.num_leaves and _readable(spec):
            return pytree.tree_unflatten(leaves, spec)
        return leaves[0] if len(leaves) == 1 else tuple(leaves)

    # Sites.

    def _site(self, node: Node) -> Steps:
        g, path = self.g, str(node.target)
        neuron = self.taken.neurons[path]
        axes = node.meta["val"].dim()
        (before,) = node.all_input_nodes
        if not g.has_module(path):
            g.module(path, multi_step(_node_of(neuron)))
        current = g.fitted(g.over_steps(before), neuron.steps, axes)
        spikes = g.call_module(path, current)
        offsets = neuron.offset.detach().view(-1)
        self.report["sites"][self.taken.sites[path]] = {
            "module": path,
            "steps": neuron.steps,
            "tables": neuron.intervals,
            "y0": offsets.tolist(),
        }
        if not bool(offsets.any()):
            return Steps(spikes, neuron.steps)
        if neuron.gates is None:
            first = self._constant(neuron, path, axes)
        else:
            first = self._constant_of_interval(neuron, path, current, axes)
        return Steps(g.call(torch.add, spikes, first), neuron.steps)

    def _constant(self, neuron: FewSpikesNeuron, path: str, axes: int) -> Node:
        """What a site sends without any spike, as a current of the first step."""
        current = neuron.offset.new_zeros(neuron.steps)
        current[0] = neuron.offset.detach().view(())
        return self.g.tensor(f"{path}_y0", current.view(-1, *[1] * axes))

    def _constant_of_interval(
        self, neuron: FewSpikesNeuron, path: str, current: Node, axes: int
    ) -> Node:
        """The same with gates: each value's interval has its own."""
        g = self.g
        held = g.tensor(f"{path}_y0", neuron.offset.detach()[_filled(neuron)])
        potential = g.graph.call_method("detach", (g.call(torch.sum, current, 0),))
        gates = g.graph.get_attr(f"{path}.gate_thresholds")
        chosen = g.call(operator.getitem, held, g.call(torch.bucketize, potential, gates))
        return g.at_first(chosen, axes, neuron.steps, [slice(None)] * axes)

    # Operations.

    def _operation(self, node: Node) -> None:
        g = self.g
        if op_name(node) == "sym_size" and node.args[0] in g.stepped:
            x, axis = node.args
            steps = g.stepped[x]  # type: ignore[index]
            g.plain[node] = g.graph.call_method("size", (steps.node, shifted(axis)))  # type: ignore[arg-type]
            return
        _refuse_own(node)
        if self._is_constant(node):
            g.constants[node] = compute(self.taken.network, node, g.constants)
            return
        signal = node in self.taken.signals
        made = layer_behind(g, node) if signal else None
        if made is None and signal and any(n in g.stepped for n in node.all_input_nodes):
            made = behind(g, node)
        if made is not None:
            g.stepped[node] = made
            if made.count > 1 and op_name(node) != "getitem":
                self.report["layers"].append({"op": packet(node), "where": where(node)})
            return
        args, kwargs = g.original(node.args), g.original(node.kwargs)
        g.plain[node] = g.graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
        self._tell(node)

    def _is_constant(self, node: Node) -> bool:
        """Whether a value is made of buffers and numbers alone: a file holds it ready made.

        PyTorch computes it while it reads a file, and would keep it under a name of its own.
        """
        g = self.g
        for read_by in node.all_input_nodes:
            if read_by.op == "get_attr":
                value = read(self.taken.network, read_by)
                if isinstance(value, torch.nn.Parameter):
                    return False
                g.constants.setdefault(read_by, value)
            if read_by not in g.constants:
                return False
        return True

    def _tell(self, node: Node) -> None:
        """Notes what takes decoded values."""
        role = self.roles.get(node)
        if role in (None, Role.GIVEN) or packet(node) == "getitem":
            return
        spiking = any(n in self.g.stepped for n in node.all_input_nodes)
        if role is Role.SYNAPTIC and not spiking:
            return
        self.report["decoded"].append({"op": packet(node), "kind": str(role), "where": where(node)})


def _readable(spec: pytree.TreeSpec) -> bool:
    """Whether a tree of outputs is of Python's own containers."""
    return spec.type in _BUILT_IN and all(_readable(child) for child in spec.children())


def _refuse_own(node: Node) -> None:
    module = getattr(node.target, "__module__", "") or ""
    if not is_aten(node) and module.split(".")[0] == __name__.split(".")[0]:
        raise ExportError(
            f"{packet(node)} at {where(node)} is a function of this package, which SpikingJelly "
            "lacks; keep it out of the converted network"
        )


def _filled(neuron: FewSpikesNeuron) -> Tensor:
    """Which intervals of a gated neuron hold any value; SpikingJelly wants no others."""
    assert neuron.gates is not None
    gates = neuron.gates.detach()
    grows = gates[1:] > gates[:-1]
    ends = torch.ones(1, dtype=torch.bool, device=gates.device)
    return torch.cat([ends, grows, ends])


def _node_of(neuron: FewSpikesNeuron) -> sj_neuron.FewSpikeNode:
    """SpikingJelly's node with the tables of a neuron."""
    table = neuron.to_table()
    if neuron.gates is None:
        return sj_neuron.FewSpikeNode(table, step_mode="m")
    return sj_neuron.HGNode(table.tables, table.gate_thresholds, step_mode="m")
