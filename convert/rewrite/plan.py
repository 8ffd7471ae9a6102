"""What a setting of the conversion takes apart into simpler operations, before sites are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node

from ..capture.capture import Captured
from ..graph.edit import device_of
from ..graph.regions import packet
from ..graph.run import Seen, watch
from .maxima import Maximum, find_maxima
from .maxima_apart import take_maxima_apart
from .norm_statistics import Scales, Spread
from .norms import Norm, find_norms, fold_running, normalise
from .pool_first import pool_first


def take_apart(
    captured: Captured,
    batches: Iterable[Any],
    *,
    normalisation: bool = False,
    max_pool: bool | str = False,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> None:
    """Takes norms and maxima of a captured network apart where that is asked for.

    Args:
        captured: the network, changed in place; notes on what was done are added.
        batches: calibration batches, for the scales of the norms.
        normalisation, max_pool: as for `to_spiking`.
        device: where the network lives; its tensors' device if None.
        progress: shows a bar on stderr.
    """
    graph_module = captured.graph_module
    norms: dict[Node, Norm] = {}
    maxima: list[Maximum] = []
    if normalisation:
        fold_running(graph_module)
        norms, notes = find_norms(graph_module)
        captured.notes += notes
    if max_pool:
        maxima, notes = find_maxima(graph_module)
        captured.notes += notes
    if max_pool == "first":
        moved = pool_first(graph_module, maxima)
        maxima = [each for each in maxima if each not in moved]
        if moved:
            captured.notes.append(
                f"{len(moved)} max poolings come before the activation that preceded them, whose "
                "neurons are fewer then; these maxima remain"
            )
    spreads = {node: Spread(norm.taken) for node, norm in norms.items()}
    seen: dict[Node, list[Seen]] = {}
    for spread in spreads.values():
        seen.setdefault(spread.norm.source, []).append(spread.add)
    for each in maxima:
        seen.setdefault(each.source, []).append(each.see)
    if seen:
        where = device if device is not None else device_of(graph_module)
        images = watch(
            graph_module, captured.signature, seen, batches, device=where, progress=progress
        )
        # The maxima first: a norm that is taken apart is no source of theirs any more.
        _maxima(captured, maxima)
        _norms(captured, norms, {n: s.scales(images) for n, s in spreads.items() if s.rows})


def _norms(captured: Captured, norms: dict[Node, Norm], scales: dict[Node, Scales]) -> None:
    counts = Counter(packet(node) for node in scales)
    normalise(captured.graph_module, norms, scales)
    if counts:
        kinds = ", ".join(f"{n} {name}" for name, n in counts.items())
        captured.notes.append(
            f"norms are taken apart ({kinds}): mean and sum are synaptic, square and rsqrt are "
            "sites"
        )


def _maxima(captured: Captured, maxima: list[Maximum]) -> None:
    left = take_maxima_apart(captured.graph_module, maxima)
    counts = Counter(packet(each.node) for each in maxima if each not in left)
    if left:
        captured.notes.append(
            f"{len(left)} maxima stay as they are: -inf reaches them and no mask shows where"
        )
    if counts:
        kinds = ", ".join(f"{n} {name}" for name, n in counts.items())
        captured.notes.append(f"maxima are tournaments of max(a, b) = a + relu(b - a) ({kinds})")
