"""A converted network in whole numbers: integer weights, biases, thresholds, resets and spikes."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch

from ..assembly.bias_correction import stretched
from ..assembly.biased_layers import value_at
from ..errors import InputError
from ..fitting.whole_weights import Whole, WholeTable
from ..inspect.synapses import connections
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from ..parts.model import SpikingParts
from .abilities import Abilities
from .neurons import WholeNeuron, whole_neuron
from .planning import Given, Planner
from .result import QuantisedModel
from .site_tables import fit_tables, neuron_with
from .source import Source
from .units import Units
from .whole_network import SiteLoss, Summary, WholeNetwork

_WEIGHT_BITS, _STATE_BITS = (2, 16), (6, 24)


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
    weights are fitted anew to what calibration saw, also those of neurons that were trained since.
    Output weights are powers of two times one unit a site: a weighted spike is a shift and an
    addition. What whole numbers can't say (norms, products of signals) stays floating point and is
    listed. ``docs/hardware.md`` has the arithmetic.

    Args:
        snn: from `to_spiking` or `load`; inside `with_steps` with the neurons of that K. It is left
            as it is.
        data: calibration data as for `to_spiking`: the layers' mean errors are taken into the
            integer biases, and images of whole pixels are read as such. None leaves both out;
            networks with norms or products need it.
        weight_bits: of a weight, 2 to 16, its sign among them.
        state_bits: of a membrane potential, and of analog values that weights read, 6 to 24.
        weights: output weights of spikes: ``"power-of-two"``, or ``"integer"`` of up to 8 bits and
            a shift, which take a multiplication for each receiving neuron and step.
        progress: shows bars on stderr.

    Raises:
        InputError: for what is no converted network, one of converted parts, a number of bits
            outside of its range, another word for `weights`, a block `readout` or `spiking_only`,
            or data that is needed and missing.
        CalibrationError: if the network doesn't carry what calibration saw.
    """
    _check(snn, weight_bits, state_bits, weights)
    whole = Whole(weights)
    tables, problems = fit_tables(snn, whole, progress=progress)
    if not tables:
        raise InputError("the network has no few-spikes neuron; quantise takes a converted network")
    source = Source(snn, data)
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
    ranges = source.ranges([n for n in units.needed() if n not in pixels], abilities, progress)
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
    return QuantisedModel(WholeNetwork(source.network, plan.layers, integers, summary), snn)


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


def _integers(neuron: FewSpikesNeuron, table: WholeTable, units: Units, path: str) -> WholeNeuron:
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
