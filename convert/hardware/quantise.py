"""A converted network in whole numbers: integer weights, biases, thresholds, resets and spikes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..assembly.bias_correction import neurons_of, stretched
from ..assembly.biased_layers import find_layers, value_at
from ..assembly.side_by_side import Sample
from ..calls.batch_reading import read_by
from ..common.batches import batches_of
from ..errors import InputError
from ..fitting.whole_weights import Whole, WholeTable
from ..graph.node_facts import read
from ..graph.operators import kind_of, Kind
from ..graph.run import compute, watch
from ..inspect.synapses import connections
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from ..parts.model import SpikingParts
from .abilities import Abilities, weight_of
from .correcting import Corrections, corrections
from .images import pixels_of
from .neurons import WholeNeuron, whole_neuron
from .planning import Given, Planner
from .records import Op, Pixels
from .result import QuantisedModel, SiteLoss, Summary
from .site_tables import fit_tables, neuron_with
from .units import Units

_WEIGHT_BITS, _STATE_BITS = (2, 16), (6, 24)
# Images on which pixels are looked for.
_LOOKED_AT = 256


def quantise(
    snn: SpikingModel,
    data: Any = None,
    *,
    weight_bits: int = 8,
    state_bits: int = 16,
    weights: str = "power-of-two",
    progress: bool = True,
) -> QuantisedModel:
    """The network in whole numbers, with a simulation that is exact to the bit.

    Weights become integers with a unit for each output channel, chosen so that an accumulator
    (int32, its bound proven) comes to the next potential by a shift. Thresholds, resets and output
    weights are fitted anew to what calibration saw, with output weights that are powers of two times
    one unit a site: a weighted spike is a shift and an addition. What whole numbers can't say (norms,
    products of signals) stays floating point and is listed. ``docs/hardware.md`` has the arithmetic.

    Args:
        snn: from `to_spiking` or `load`; inside `with_steps` with the neurons of that K. It is left
            as it is.
        data: calibration data as for `to_spiking`: the layers' mean errors are taken into the integer
            biases, and images of whole pixels are read as such. None leaves both out; networks with
            norms or products need it.
        weight_bits: of a weight, 2 to 16, its sign among them.
        state_bits: of a membrane potential, and of analog values that weights read, 6 to 24.
        weights: output weights of spikes: ``"power-of-two"``, or ``"integer"`` of up to 8 bits, which
            take a multiplication for each receiving neuron and step.
        progress: shows bars on stderr.

    Raises:
        InputError: for what is no converted network, a number of bits outside of its range, another
            word for `weights`, a network inside `readout` or `spiking_only`, one of converted parts,
            or data that is needed and missing.
        CalibrationError: if the network doesn't carry what calibration saw.
    """
    _check(snn, weight_bits, state_bits, weights)
    whole = Whole(weights)
    tables, problems = fit_tables(snn, whole, progress=progress)
    if not tables:
        raise InputError("the network has no few-spikes neuron; quantise takes a converted network")
    source = _Source(snn, data)
    paths = {name: snn.names[name] for name in tables}
    by_path = {paths[name]: table for name, table in tables.items()}
    neurons = {paths[name]: neuron_with(table, snn, name) for name, table in tables.items()}
    for path, neuron in neurons.items():
        parent, _, key = path.rpartition(".")
        setattr(source.network.get_submodule(parent), key, neuron)
    known = connections(source.network, {p: n for n, p in snn.names.items() if p in neurons})
    constants = source.constants(known)
    abilities = Abilities(source.network, known, constants)
    units = Units(abilities, by_path, {paths[n]: p for n, p in problems.items()}, state_bits)
    pixels = source.pixels()
    ranges = source.ranges([n for n in units.needed() if n not in pixels], progress)
    plan = Planner(
        Given(source.network, constants, by_path, weight_bits, state_bits, ranges, pixels),
        abilities,
        units,
    )
    found = source.corrected(plan, neurons, progress)
    for path, bias in found.biases.items():
        value_at(source.network, path).data = bias
    for layer in plan.layers:
        plan.finish(layer)
    integers = {}
    for path, table in by_path.items():
        neuron = neurons[path]
        if path in found.factors:
            stretched(neuron, found.factors[path])
        integers[path] = _integers(neuron, table, units, path)
    summary = Summary(
        weight_bits,
        state_bits,
        str(whole),
        {name: SiteLoss(t.free_mse, t.mse, t.rounded_mse) for name, t in tables.items()},
        found,
        bool(pixels),
        snn.steps,
    )
    return QuantisedModel(source.network, snn, plan.layers, integers, summary)


def _check(snn: Any, weight_bits: Any, state_bits: Any, weights: Any) -> None:
    if isinstance(snn, SpikingParts):
        raise InputError(
            "quantise takes a whole network, found one of converted parts; quantise a part: "
            "snn.parts[name]"
        )
    if not isinstance(snn, SpikingModel):
        raise InputError(f"quantise takes a converted network, found a {type(snn).__name__}")
    for name, value, (low, high) in (
        ("weight_bits", weight_bits, _WEIGHT_BITS),
        ("state_bits", state_bits, _STATE_BITS),
    ):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or not low <= value <= high:
            raise InputError(f"{name} must be a whole number from {low} to {high}, found {value!r}")
    if weights not in list(Whole):
        known = " or ".join(repr(str(kind)) for kind in Whole)
        raise InputError(f"weights must be {known}, found {weights!r}")
    if snn.plan.readout is not None or snn.plan.spiking is not None:
        raise InputError("quantise takes whole networks; leave the block readout or spiking_only")


class _Source:
    """A copy of a network that is made whole, and its calibration data."""

    def __init__(self, snn: SpikingModel, data: Any) -> None:
        self.original = copied = copy.deepcopy(snn).to("cpu").eval()
        self.network: GraphModule = copied.network
        fit = snn.plan.fit or snn.fitted_as
        if snn.plan.fit is not None:
            for path, neuron in neurons_of(copied, fit).items():
                parent, _, key = path.rpartition(".")
                setattr(self.network.get_submodule(parent), key, neuron)
        for tensor in self.network.parameters():
            if tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4:
                raise InputError("the network is in half precision; quantise it before .half()")
        self.batches: Iterable[Any] | None = None
        if data is not None:
            signature = copied.signature
            taken = read_by(batches_of(data, signature.cut_axis), copied.reader())
            self.batches = signature.within(taken)
        # With data the layers' mean errors are measured anew.
        copied.corrections.put(self.network, fit if data is None else None)
        self.layers = find_layers(self.network, {p: n for n, p in snn.names.items()})

    def constants(self, known: Mapping[Node, Any]) -> dict[Node, Any]:
        """Values of nodes that depend on no input."""
        found: dict[Node, Any] = {}
        for node in self.network.graph.nodes:
            if node.op == "get_attr":
                found[node] = read(self.network, node)
            elif node.op == "call_function" and node not in known and node.all_input_nodes:
                if all(n in found for n in node.all_input_nodes) and kind_of(node) is not Kind.SIZE:
                    with torch.no_grad():
                        found[node] = compute(self.network, node, found)
        return found

    def pixels(self) -> dict[Node, Pixels]:
        """Inputs that consist of whole pixels."""
        if self.batches is None:
            return {}
        inputs = [n for n in self.network.graph.nodes if n.op == "placeholder"]
        seen: dict[Node, list[Tensor]] = {n: [] for n in inputs}
        signature, images = self.original.signature, 0
        for batch in self.batches:
            leaves = signature.flatten(*signature.split(batch, None))
            for node, leaf in zip(inputs, leaves, strict=True):
                if isinstance(leaf, Tensor) and leaf.is_floating_point():
                    seen[node].append(leaf)
            images += signature.images(leaves)
            if images >= _LOOKED_AT:
                break
        found = {node: pixels_of(values) for node, values in seen.items() if values}
        return {n: p for n, p in found.items() if p is not None and _convolved(n)}

    def ranges(self, nodes: list[Node], progress: bool) -> dict[Node, float]:
        """The largest size of values; of an input also without data."""
        report = self.original.report
        inputs = [n for n in self.network.graph.nodes if n.op == "placeholder"]
        found: dict[Node, float] = {}
        if report is not None:
            for node, bounds in zip(inputs, report.input_ranges, strict=False):
                if node in nodes and bounds is not None:
                    found[node] = max(map(abs, bounds))
        if self.batches is None or not set(nodes) - set(found):
            return found

        def seen(node: Node) -> Any:
            def told(value: Tensor) -> None:
                if value.numel():
                    found[node] = max(found.get(node, 0.0), float(value.abs().max()))

            return told

        watched = {node: [seen(node)] for node in nodes if node not in found}
        watch(self.network, self.original.signature, watched, self.batches, progress=progress)
        return found

    def corrected(
        self, plan: Planner, neurons: Mapping[str, FewSpikesNeuron], progress: bool
    ) -> Corrections:
        """Mean errors of the layers, if there is data to measure them on."""
        if self.batches is None:
            return Corrections()
        tensors = {}
        for layer in plan.layers:
            if layer.op is Op.WEIGHTS:
                node = weight_of(layer.node)
                if node.op == "get_attr":
                    dtype = read(self.network, node).dtype
                    tensors[str(node.target)] = plan.floats(layer).to(dtype)
        exact = {p: self.original.exact[p.rpartition(".")[2]] for p in neurons}
        sample = Sample(self.network, exact, self.original.signature, self.batches)
        return corrections(sample, self.layers, neurons, tensors, progress=progress)


def _convolved(node: Node) -> bool:
    """Whether convolutions alone read an image as it is."""
    names = ("conv1d", "conv2d", "conv3d")
    users = [u for u in node.users if isinstance(u.meta.get("val"), Tensor)]
    packets = [str(getattr(u.target, "overloadpacket", "")) for u in users]
    return bool(users) and all(p in [f"aten.{n}" for n in names] for p in packets)


def _integers(
    neuron: FewSpikesNeuron, table: WholeTable, units: Units, path: str
) -> WholeNeuron:
    state = units.states[path]
    T, h = neuron.thresholds, neuron.resets
    rows = (1, -1) if neuron.gates is None else T.shape
    gates = torch.empty(0) if neuron.gates is None else neuron.gates
    return whole_neuron(
        T.reshape(rows),
        h.reshape(rows),
        gates,
        torch.from_numpy(table.weights),
        torch.from_numpy(table.offsets),
        unit=state.unit,
        most=state.most,
    )
