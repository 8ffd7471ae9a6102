"""What each site sees on calibration data: one histogram a site, memory bounded by one batch."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..calls.padding import kept_positions, padding_size
from ..capture.capture import Captured
from ..common.devices import apart
from ..common.kept_passes import BatchPass
from ..common.kept_stages import Stages
from ..common.progress import Progress
from ..errors import CalibrationError
from ..graph.node_facts import has_positions
from ..sites.find import Site
from . import device_counts
from .histogram import HIDDEN, Histogram
from .importance import Observer
from .kept_tally import restore, state_of

# A batch runs in this many pieces: the backward pass keeps the values of a whole piece.
_PIECES = 4

# Lowest and highest value of an input; None where it isn't a floating-point tensor.
Range = tuple[float, float] | None


@dataclass
class Observed:
    """What calibration saw.

    Args:
        histograms: inputs of every site, by its name.
        neurons: elements of a site's input for one image, by its name; a gate of a recurrent layer
            has the same neurons at every time step.
        images: calibration images.
        input_ranges: lowest and highest value of each flat input; None where it isn't a
            floating-point tensor.
    """

    histograms: dict[str, Histogram]
    neurons: dict[str, int]
    images: int
    input_ranges: list[Range]


def calibrate(
    captured: Captured,
    sites: Sequence[Site],
    batches: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    seed: int = 0,
    stages: Stages | None = None,
    progress: bool = False,
) -> Observed:
    """Runs the exact network on calibration batches and counts the inputs of every site.

    Args:
        captured: the network, its sites already called as modules.
        sites: the sites to observe.
        batches: tensors, ``(inputs, label)`` pairs or dicts of keyword inputs; see `BatchReader`.
        device: where the network lives.
        seed: of the estimate of every site's importance.
        stages: where what was counted so far is kept.
        progress: shows a bar on stderr.

    Raises:
        CalibrationError: if there is no batch, or a NaN or infinity reaches a site.
    """
    tally = _Tally(sites)
    network = Observer(
        captured.graph_module,
        list(tally.site_of),
        tally.count,
        seed,
        captured.signature.outputs,
        with_positions(captured),
    )
    kept = BatchPass(
        stages or Stages(),
        "calibration",
        "calibration data",
        partial(state_of, tally.histograms, tally.elements, network),
        partial(restore, tally.histograms, tally.elements, network),
        (Histogram,),
    )
    images = 0
    ranges: list[Range] = []
    longest: dict[str, int] = {}
    with torch.no_grad():
        for batch in Progress(batches, "calibrate", shown=progress):
            args, kwargs = captured.signature.split(batch, device)
            leaves = captured.signature.flatten(args, kwargs)
            if not (size := captured.signature.images(leaves)):
                continue
            ranges = _widened(ranges, leaves)
            for name, length in captured.signature.lengths(leaves).items():
                longest[name] = max(longest.get(name, 0), length)
            if kept.wants(leaves):
                for piece in captured.signature.pieces(leaves, _PIECES):
                    network.run(*piece, kept=kept_positions(captured.signature, piece))
                    tally.finish()
                kept.ran()
            images += size
    kept.finish()
    if images == 0:
        raise CalibrationError(
            "the calibration data yields no image; give a list, a DataLoader or a tensor with at "
            "least one batch (an iterator that was used before is empty)"
        )
    if longest:
        sizes = [replace(s, longest=longest[s.name]) for s in captured.signature.varying]
        captured.signature = replace(captured.signature, varying=tuple(sizes))
    for name, histogram in tally.histograms.items():
        if not histogram.total:
            raise CalibrationError(f"{name}: its input is empty on the calibration data")
    note = _unmoved(tally.histograms, network.failed)
    if note is not None and note not in captured.notes:
        captured.notes.append(note)
    return Observed(tally.histograms, tally.neurons(images), images, ranges)


def with_positions(captured: Captured) -> list[bool]:
    """Whether each flat output has a part for each position of a text that may be padded."""
    name = padding_size(captured.signature)
    if name is None:
        return []
    example = next(size.example for size in captured.signature.varying if size.name == name)
    output = next(iter(reversed(captured.graph_module.graph.nodes)))
    returned: Any = output.args[0]
    return [isinstance(n, Node) and has_positions(n, name, example) for n in returned]


class _Tally:
    """Counts the inputs of every site.

    Args:
        sites: by whose calls inputs are told.

    Attributes:
        site_of: the site of every call.
        histograms: of the inputs, by the name of the site.
        elements: how many inputs each call had.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.site_of = {call: site for site in sites for call in site.calls}
        self.histograms = {s.name: Histogram(s.name, relative=s.singular) for s in sites}
        self.elements = dict.fromkeys(self.site_of, 0)
        self._masked = {site.name: site.masks for site in sites}
        self._hidden = {site.name: site.hidden_below(HIDDEN) for site in sites}
        # Inputs of the first time steps of a gate, which are counted with those of the last.
        self._steps: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._waiting: list[Generator[device_counts.Asked, device_counts.Told, None]] = []

    def count(self, call: Node, x: Tensor, importance: Tensor) -> None:
        """Adds inputs ``[...]`` of a site, each with its importance ``[...]``."""
        site = self.site_of[call]
        self.elements[call] += x.numel()
        if site.later:
            steps = self._steps.setdefault(site.name, [])
            steps.append((x.flatten(), importance.flatten()))
            if call is not site.calls[-1]:
                return
            x, importance = map(torch.cat, zip(*self._steps.pop(site.name), strict=True))
        histogram = self.histograms[site.name]
        masked, hidden = self._masked[site.name], self._hidden[site.name]
        if apart(x.device):
            told = histogram.adding(x, masked=masked, hidden=hidden, importance=importance)
            self._waiting.append(told)
        else:
            histogram.add(x, masked=masked, hidden=hidden, importance=importance)

    def neurons(self, images: int) -> dict[str, int]:
        """Neurons of every site for one of so many images, by its name."""
        found: dict[str, int] = {}
        for call, count in self.elements.items():
            # A value that all images of a batch share has fewer elements than there are images.
            one, name = max(round(count / images), 1), self.site_of[call].name
            found[name] = max(one, found.get(name, 0))
        return found

    def finish(self) -> None:
        """Counts what was told of a GPU; sites wait for it together, not each by itself."""
        waiting, self._waiting = self._waiting, []
        device_counts.finish(waiting)


def _unmoved(histograms: Mapping[str, Histogram], failed: str | None) -> str | None:
    """A note on the sites that no gradient of the outputs reaches, if there are any.

    Args:
        histograms: by the name of the site.
        failed: why the backward pass failed, if it did.
    """
    unmoved = [name for name, histogram in histograms.items() if not histogram.mass.sum()]
    if not unmoved:
        return None
    names = ", ".join(unmoved[:3]) + (f" and {len(unmoved) - 3} more" if unmoved[3:] else "")
    why = f" ({failed})" if failed else ""
    return f"every value of {names} counts alike: no gradient of the outputs reaches it{why}"


def _widened(ranges: Sequence[Range], leaves: Sequence[Any]) -> list[Range]:
    """Ranges that hold another batch of inputs too."""
    result: list[Range] = []
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.numel():
            result.append(None)
            continue
        low, high = (float(bound) for bound in torch.aminmax(leaf))
        before = ranges[index] if ranges else None
        result.append((min(low, before[0]), max(high, before[1])) if before else (low, high))
    return result
