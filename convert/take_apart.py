"""What a setting of the conversion takes apart into simpler operations, before sites are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from .capture import Captured
from .emit import device_of
from .errors import InputError
from .norm_scales import norm_scales
from .normalise import find_norms, fold_running, normalise
from .regions import packet
from .sites import Site, find_sites


def check(normalisation: bool, max_pool: bool | str) -> None:
    """Refuses other settings than those that exist.

    Raises:
        InputError: naming what was found.
    """
    if normalisation not in (False, True):
        raise InputError(f"normalisation must be False or True, found {normalisation!r}")
    if max_pool not in (False, True, "first"):
        raise InputError(f"max_pool must be False, True or 'first', found {max_pool!r}")


def take_apart(
    captured: Captured,
    batches: Iterable[Any],
    *,
    normalisation: bool = False,
    max_pool: bool | str = False,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> list[Site]:
    """The sites of a captured network, norms and maxima taken apart first where that is asked for.

    Args:
        captured: the network, changed in place; notes on what was done are added.
        batches: calibration batches, for the scales of the norms.
        normalisation, max_pool: as for `to_spiking`.
        device: where the network lives; its tensors' device if None.
        progress: shows a bar on stderr.
    """
    graph_module = captured.graph_module
    if normalisation:
        fold_running(graph_module)
        norms, notes = find_norms(graph_module)
        captured.notes += notes
        scales = norm_scales(
            graph_module,
            captured.signature,
            {node: norm.taken for node, norm in norms.items()},
            batches,
            device=device if device is not None else device_of(graph_module),
            progress=progress,
        )
        counts = Counter(packet(node) for node in scales)
        normalise(graph_module, norms, scales)
        if counts:
            kinds = ", ".join(f"{n} {name}" for name, n in counts.items())
            captured.notes.append(
                f"norms are taken apart ({kinds}): mean and sum are synaptic, square and rsqrt "
                "are sites"
            )
    return find_sites(graph_module)
