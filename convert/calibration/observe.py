"""What each site sees on calibration data: one histogram a site, memory bounded by one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from tqdm import tqdm

from ..errors import CalibrationError
from ..graph.call_signature import batch_size
from ..graph.capture import Captured
from ..sites.find import Site
from .histogram import Histogram
from .importance import Observer

# A batch runs in this many pieces: the backward pass keeps the values of a whole piece.
_PIECES = 4


@dataclass
class Observed:
    """What calibration saw.

    Args:
        histograms: inputs of every site, by its name.
        neurons: elements of a site's input for one image, by its name.
        images: calibration images.
        input_ranges: lowest and highest value of each flat input; None where it isn't a
            floating-point tensor.
    """

    histograms: dict[str, Histogram]
    neurons: dict[str, int]
    images: int
    input_ranges: list[tuple[float, float] | None]


def calibrate(
    captured: Captured,
    sites: Sequence[Site],
    batches: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Observed:
    """Runs the exact network on calibration batches and counts the inputs of every site.

    Args:
        captured: the network, its sites already called as modules.
        sites: the sites to observe.
        batches: tensors, ``(inputs, label)`` pairs or dicts of keyword inputs; see `split_batch`.
        device: where the network lives.
        seed: of the estimate of every site's importance.
        progress: shows a bar on stderr.

    Raises:
        CalibrationError: if there is no batch, or a NaN or infinity reaches a site.
    """
    histograms = {site.name: Histogram(site.name, relative=site.singular) for site in sites}
    elements = dict.fromkeys(histograms, 0)
    masked = {site.name: site.masks for site in sites}
    name_of = {site.node: site.name for site in sites}

    def count(site: Node, x: Tensor, importance: Tensor) -> None:
        name = name_of[site]
        histograms[name].add(x, masked=masked[name], importance=importance)
        elements[name] += x.numel()

    network = Observer(captured.graph_module, list(name_of), count, seed)
    images = 0
    ranges: list[tuple[float, float] | None] = []
    with torch.no_grad():
        for batch in tqdm(batches, "calibrate", disable=None if progress else True):
            args, kwargs = captured.signature.split(batch, device)
            size = batch_size((args, kwargs))
            if size:
                leaves = captured.signature.flatten(args, kwargs)
                ranges = _widened(ranges, leaves)
                for piece in captured.signature.pieces(leaves, _PIECES):
                    network.run(*piece)
                images += size
    if images == 0:
        raise CalibrationError(
            "the calibration data yields no image; give a list, a DataLoader or a tensor with at "
            "least one batch (an iterator that was used before is empty)"
        )
    for name, histogram in histograms.items():
        if not histogram.total:
            raise CalibrationError(f"{name}: its input is empty on the calibration data")
    unmoved = [name for name, histogram in histograms.items() if not histogram.mass.sum()]
    if unmoved:
        names = ", ".join(unmoved[:3]) + (f" and {len(unmoved) - 3} more" if unmoved[3:] else "")
        why = f" ({network.failed})" if network.failed else ""
        note = f"every value of {names} counts alike: no gradient of the outputs reaches it{why}"
        captured.notes += [note] if note not in captured.notes else []
    neurons = {name: round(count / images) for name, count in elements.items()}
    return Observed(histograms, neurons, images, ranges)


def _widened(
    ranges: list[tuple[float, float] | None], leaves: Sequence[Any]
) -> list[tuple[float, float] | None]:
    """Ranges that hold another batch of inputs too."""
    result: list[tuple[float, float] | None] = []
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.numel():
            result.append(None)
            continue
        low, high = (float(bound) for bound in torch.aminmax(leaf))
        before = ranges[index] if ranges else None
        result.append((min(low, before[0]), max(high, before[1])) if before else (low, high))
    return result
