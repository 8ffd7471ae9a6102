"""A converted network run spike by spike on a clock, beside the fast run and equal to it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..calls.batch_reading import moved
from ..common.progress import Progress
from ..errors import InputError, SiteError
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from .simulation_result import Membrane, Simulation
from .spike_recorder import Record, Recorder, joined
from .spike_walk import Ran, walk_spikes
from .synapses import Connection, connections, shapes_of

# Images that pass through the network together.
PIECE = 10


def simulate(
    snn: SpikingModel,
    images: Any,
    *,
    record: str | Sequence[str] = (),
    memory: float | None = None,
    progress: bool = True,
) -> Simulation:
    """Runs a network spike by spike: every layer on zeros and ones, tick by tick.

    Its outputs and spikes equal those of the fast run, save where sums that are added up in another
    order round a potential to the other side of a threshold; these are counted in
    `Simulation.flips`. A site begins when its inputs are complete, and takes one tick for its
    gates, if it has any, and one for each step. Several images follow each other as a pipeline.
    Operations that don't spike (norms, row maxima, products of signals) take decoded values.

    Args:
        snn: from `to_spiking`; inside `with_steps` its neurons of that K.
        images: one batch, in any form of calibration.
        record: names or globs of sites whose spikes and membrane potentials are kept.
        memory: bytes that records may take; half of what is free if None.
        progress: shows a bar on stderr.

    Raises:
        SiteError: for a name that no site has.
        InputError: for images that the network doesn't take, a cut readout, or records that are
            too large.
    """
    if not isinstance(snn, SpikingModel):
        raise InputError(f"simulate takes a converted network, found a {type(snn).__name__}")
    plan = snn.plan
    if plan.readout is not None:
        raise InputError("simulate runs whole neurons; leave the block snn.readout(...)")
    chosen = sites_named(snn, [record] if isinstance(record, str) else record)
    _refuse_gates(snn, chosen)
    device = next((t.device for t in snn.state_dict().values()), torch.device("cpu"))
    args, kwargs = moved(snn.reader().read(images), device)
    leaves = snn.signature.flatten(args, kwargs)
    count = snn.signature.images(leaves)
    if not count:
        raise InputError("there is no image to simulate; give at least one")
    network = snn.network if plan.plain else snn.as_planned(plan)
    network.eval()
    spiking = {p: s for s, p in snn.names.items() if _spikes(network, p)}
    with torch.no_grad():
        shapes = None
        if snn.signature.lengths(leaves):
            # What was captured had another length than these images.
            alone = leaves if snn.signature.whole else snn.signature.pieces(leaves, count)[0]
            shapes = shapes_of(network, alone)
        known = connections(network, spiking, shapes)
        single = None
        if chosen:
            single = _single(network, known, snn, leaves, chosen, memory)
        recorder = Recorder(network, chosen)
        pieces = snn.signature.pieces(leaves, -(-count // PIECE))
        ran = [
            walk_spikes(network, known, piece, recorder)
            for piece in Progress(pieces, "simulate", shown=progress)
        ]
    sizes = [snn.signature.images(piece) for piece in pieces]
    return _result(snn, network, spiking, recorder, ran, sizes, single)


def _refuse_gates(snn: SpikingModel, chosen: Sequence[str]) -> None:
    """Refuses records of sites that are called several times.

    Raises:
        InputError: if one is among those that are chosen.
    """
    calls = Counter(str(n.target) for n in snn.network.graph.nodes if n.op == "call_module")
    for name in chosen:
        if (count := calls[snn.names[name]]) > 1:
            raise InputError(
                f"site {name} works at {count} time steps, and records are kept of sites that work "
                "once; leave it out of record= (rates, flips and counts hold it)"
            )


def sites_named(snn: SpikingModel, patterns: Sequence[str]) -> list[str]:
    """The sites that names or globs mean, in graph order.

    Raises:
        SiteError: for one that means none.
    """
    found = set()
    for pattern in patterns:
        matching = {name for name in snn.names if fnmatchcase(name, pattern) or name == pattern}
        if not matching:
            near = get_close_matches(pattern, snn.names, 3, 0.3) or list(snn.names)[:3]
            raise SiteError(
                f"no site is called {pattern!r}; there are e.g. {', '.join(near)} (globs such as "
                "'layer1.*' will do)"
            )
        found |= matching
    return [name for name in snn.names if name in found]


def _spikes(network: GraphModule, path: str) -> bool:
    return isinstance(network.get_submodule(path), FewSpikesNeuron)


def _single(
    network: GraphModule,
    known: Mapping[Node, Connection],
    snn: SpikingModel,
    leaves: list[Any],
    chosen: Sequence[str],
    memory: float | None,
) -> dict[str, Record]:
    """The records of the first image alone; refuses those of all if they are too large."""
    count = snn.signature.images(leaves)
    pieces = snn.signature.pieces(leaves, count)
    trial = Recorder(network, chosen)
    walk_spikes(network, known, pieces[0], trial)
    needed = trial.bytes * len(pieces)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = free / 2 if memory is None else memory
    if needed > most:
        raise InputError(
            f"records of {len(chosen)} sites and {count} images take {needed / 2**20:.1f} MiB, and "
            f"there is room for {most / 2**20:.1f}; name fewer sites in record=, or give "
            f"{max(1, int(count * most / needed))} images at a time"
        )
    return {name: records[0] for name, records in trial.records.items()}


def _result(
    snn: SpikingModel,
    network: GraphModule,
    spiking: Mapping[str, str],
    recorder: Recorder,
    ran: Sequence[Ran],
    sizes: Sequence[int],
    single: Mapping[str, Record] | None,
) -> Simulation:
    latency = max(one.ready for one in ran)
    neurons: dict[str, FewSpikesNeuron] = {}
    for path, site in spiking.items():
        neurons[site] = network.get_submodule(path)  # type: ignore[assignment]
    # The neurons of a recurrent layer work on one image until its last time step.
    interval = max((end - recorder.starts[site] for site, end in recorder.ends.items()), default=1)
    count = sum(sizes)
    records = {
        name: joined(recorder.records[name], single[name], sizes)
        for name in snn.names
        if single is not None and name in recorder.records
    }
    return Simulation(
        outputs=snn.signature.unflatten(outputs_of(snn, [one.outputs for one in ran])),
        fast_outputs=snn.signature.unflatten(outputs_of(snn, [one.fast for one in ran])),
        ticks=latency + interval * torch.arange(count),
        latency=latency,
        interval=interval,
        flips=recorder.flips,
        rates=recorder.rates(),
        starts=recorder.starts,
        spikes={name: record.spikes for name, record in records.items()},
        intervals={n: r.interval for n, r in records.items() if r.interval is not None},
        membranes={name: _membrane(neurons[name], record) for name, record in records.items()},
        gated={name: neuron.gates is not None for name, neuron in neurons.items()},
        counts=recorder.counts(count),
        constants={
            name: neuron.offset.detach() != 0
            for name, neuron in neurons.items()
            if neuron.gates is not None
        },
    )


def _membrane(neuron: FewSpikesNeuron, record: Record) -> Membrane:
    begin = record.start + (neuron.gates is not None)
    return Membrane(tuple(record.ticks), record.potentials, neuron.thresholds.detach(), begin)


def outputs_of(snn: SpikingModel, pieces: Sequence[list[Any]]) -> list[Any]:
    """Flat outputs of all pieces behind each other."""
    if len(pieces) == 1:
        return pieces[0]
    floats = [isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in pieces[0]]
    layouts = iter(snn.signature.layouts(sum(floats)))
    result: list[Any] = []
    for is_float, *leaves in zip(floats, *pieces, strict=True):
        layout = next(layouts) if is_float else None
        if layout is not None and layout.axis is not None:
            result.append(torch.cat(leaves, layout.axis))
        elif layout is None and isinstance(leaves[0], Tensor) and leaves[0].dim():
            result.append(torch.cat(leaves))
        else:
            result.append(leaves[0])
    return result
