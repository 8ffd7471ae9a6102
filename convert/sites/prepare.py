"""From a captured graph to one in which every site is a call: the passes in their order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..capture import capture
from ..capture.capture import Captured
from ..graph.layout_chains import shorten
from ..graph.memory_layout import free_layout, linear_first, spread_rows_first
from ..graph.passes import Fact, Pass, check, run
from ..rewrite.plan import take_apart
from .encode_operands import encode_operands
from .find import Site, find_sites


@dataclass
class Preparation:
    """What the passes behind capture work on.

    Args:
        captured: the network; its graph is changed in place.
        batches: calibration batches, for the scales of norms.
        normalisation, max_pool, encode: as for `to_spiking`.
        device: where the network lives; its tensors' device if None.
        progress: shows bars on stderr.
        sites: those that are found.
    """

    captured: Captured
    batches: Iterable[Any]
    normalisation: bool = False
    max_pool: bool | str = False
    encode: bool | str = False
    device: torch.device | str | None = None
    progress: bool = False
    sites: list[Site] = field(default_factory=list)


def _apart(state: Preparation) -> None:
    take_apart(
        state.captured,
        state.batches,
        normalisation=state.normalisation,
        max_pool=state.max_pool,
        device=state.device,
        progress=state.progress,
    )


def _find(state: Preparation) -> None:
    state.sites = find_sites(state.captured.graph_module)


def _encode(state: Preparation) -> None:
    state.sites = encode_operands(state.captured.graph_module, state.sites, state.encode)


def _lay_out(state: Preparation) -> None:
    graph_module = state.captured.graph_module
    free_layout(graph_module)
    linear_first(graph_module)
    spread_rows_first(graph_module)
    shorten(graph_module)


# Behind those of capture. `assembly.insert_neurons.swap` is the last: it takes the fitted neurons.
PASSES: tuple[Pass[Preparation], ...] = (
    Pass("take apart", frozenset({Fact.NORMS, Fact.LAYERS}), frozenset({Fact.APART}), _apart),
    Pass("find sites", frozenset({Fact.APART, Fact.LAYERS}), frozenset({Fact.SITES}), _find),
    Pass("encode operands", frozenset({Fact.SITES}), frozenset({Fact.ENCODED}), _encode),
    Pass("lay out", frozenset({Fact.ENCODED}), frozenset({Fact.LAID_OUT}), _lay_out),
)


def prepare(state: Preparation) -> list[Site]:
    """Takes apart, finds sites, and encodes, as the settings say.

    Args:
        state: a network as capture leaves it; changed in place.

    Returns:
        The sites, in graph order.

    Raises:
        SiteError: if there is nothing that a neuron could replace.
    """
    run(PASSES, state, check(capture.PASSES, capture.GIVEN))
    return state.sites
