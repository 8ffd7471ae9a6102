"""Few-spikes neurons in NIR: unrolled into thresholds, or one node with their numbers beside it.

Unrolled, a step is a `Threshold` on the membrane potential, a `Scale` by d that goes to the output,
and a `Scale` by -h that is added to the potential for the next step. Every potential is a node of
its own, the sum of two others: so readers that add in another order find the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..neuron.few_spikes import FewSpikesNeuron
from .nir_graph import Array, NirGraph, NirSignal

# What keeps a table from firing where its interval isn't meant; larger than any potential.
_OUT_OF_REACH = 2.0**100


def unrolled(g: NirGraph, name: str, neuron: FewSpikesNeuron, signal: NirSignal) -> NirSignal:
    """A site as thresholds, scales and sums.

    Args:
        g: the graph.
        name: of the site; its nodes are ``NAME.fire1`` ... ``NAME.fireK`` (with gates
            ``NAME.table2.fire1``), ``NAME.reset1``, ``NAME.potential2``, ``NAME.weight1``.
        neuron: its neuron.
        signal: what comes to it.
    """
    potential = g.joined(f"{name}.potential1", signal)
    T, h, d, y0 = (
        _array(t, g) for t in (neuron.thresholds, neuron.resets, neuron.weights, neuron.offset)
    )
    if neuron.gates is None:
        parts = _table(g, name, name, 0, potential, T, h, d)
        if y0.reshape(-1)[0] != 0:
            parts.append(g.constant(f"{name}.constant", potential, y0.reshape(-1)[0]))
        return g.sum(name, parts)
    parts = []
    outside = _outside(g, name, _array(neuron.gates, g), potential)
    for r, out in enumerate(outside):
        path = f"{name}.table{r + 1}"
        far = g.scaled(f"{path}.out_of_reach", out, -_OUT_OF_REACH)
        own = g.joined(f"{path}.potential1", g.sum(path, [potential, far]))
        parts += _table(g, path, name, r, own, T[r], h[r], d[r])
        if y0[r] != 0:
            parts.append(_constant_inside(g, path, out, y0[r]))
    return g.sum(name, parts)


def one_node(g: NirGraph, name: str, neuron: FewSpikesNeuron, signal: NirSignal) -> NirSignal:
    """A site as one `Threshold` that holds the first threshold, and all numbers as metadata."""
    metadata: dict[str, Any] = {
        "neuron": "few_spikes",
        "site": name,
        "thresholds": _array(neuron.thresholds, g),
        "resets": _array(neuron.resets, g),
        "weights": _array(neuron.weights, g),
        "offset": _array(neuron.offset, g).reshape(-1),
    }
    if neuron.gates is not None:
        metadata["gates"] = np.sort(_array(neuron.gates, g))
    first = g.filled(signal.shape, metadata["thresholds"].reshape(-1)[0])
    return g.add("Threshold", name, signal, signal.shape, metadata, threshold=first)


def _array(tensor: Any, g: NirGraph) -> Array:
    found: Array = tensor.detach().cpu().numpy().astype(g.dtype)
    return found


def _table(
    g: NirGraph,
    path: str,
    site: str,
    table: int,
    potential: NirSignal,
    T: Array,
    h: Array,
    d: Array,
) -> list[NirSignal]:
    """The K steps of one table; the weighted spikes of each."""
    weighted, shape = [], potential.shape
    for t in range(len(T)):
        metadata = {"site": site, "step": t + 1, "table": table + 1}
        spikes = g.add(
            "Threshold", f"{path}.fire{t + 1}", potential, shape, metadata,
            threshold=g.filled(shape, T[t]),
        )  # fmt: skip
        weighted.append(g.scaled(f"{path}.weight{t + 1}", spikes, d[t]))
        if t + 1 < len(T):
            reset = g.scaled(f"{path}.reset{t + 1}", spikes, -h[t])
            after = g.sum(path, [potential, reset])
            potential = g.joined(f"{path}.potential{t + 2}", after)
    return weighted


def _outside(g: NirGraph, name: str, gates: Array, potential: NirSignal) -> list[NirSignal]:
    """For each interval a neuron that fires where the potential lies in another one."""
    shape = potential.shape
    above = [
        g.add(
            "Threshold", f"{name}.gate{r + 1}", potential, shape, {"site": name, "gate": r + 1},
            threshold=g.filled(shape, gate),
        )
        for r, gate in enumerate(np.sort(gates))
    ]  # fmt: skip
    found = [above[0]]
    for r in range(1, len(gates) + 1):
        # In an interval lies what is above the gate below it, and not above its own.
        below = g.scaled(f"{name}.table{r + 1}.above", above[r - 1], -1)
        both = [below] if r == len(gates) else [below, above[r]]
        inside = g.sum(name, both)
        half = g.filled(shape, -0.5)
        found.append(
            g.add("Threshold", f"{name}.table{r + 1}.outside", inside, shape, threshold=half)
        )
    return found


def _constant_inside(g: NirGraph, path: str, outside: NirSignal, value: Any) -> NirSignal:
    """An interval's constant, where the potential lies in it."""
    minus = g.scaled(f"{path}.minus", outside, -1)
    half = g.filled(outside.shape, -0.5)
    inside = g.add("Threshold", f"{path}.inside", minus, outside.shape, threshold=half)
    return g.scaled(f"{path}.constant", inside, value)
