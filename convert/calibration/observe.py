"""What each site sees on calibration data: one histogram a site, memory bounded by one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from ..calls.padding import kept_positions, padding_size
from ..capture.capture import Captured
from ..common.kept_passes import BatchPass
from ..common.kept_stages import Stages
from ..common.progress import Progress
from ..common.ranks import team
from ..errors import CalibrationError
from ..graph.node_facts import has_positions
from ..sites.find import Site
from .histogram import Histogram
from .importance import Observer
from .kept_tally import restore, state_of
from .on_ranks import SharedCalibration, SharedTally
from .tally import Inputs, Range, Tally


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
    together, inputs = team(), Inputs()
    tally = Tally(sites) if together is None else SharedTally(sites)
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
    with torch.no_grad():
        if together is None or not isinstance(tally, SharedTally):
            for batch in Progress(batches, "calibrate", shown=progress):
                pieces = inputs.add(captured.signature, batch, device)
                if not pieces or not kept.wants(pieces):
                    continue
                for piece in pieces:
                    network.run(*piece, kept=kept_positions(captured.signature, piece))
                    tally.finish()
                kept.ran()
            kept.finish()
        else:
            # Nothing is kept: `KeptStages` refuses several processes.
            shared = SharedCalibration(together, captured, tally, inputs, network, device)
            shared.run(batches, progress)
    if inputs.images == 0:
        raise CalibrationError(
            "the calibration data yields no image; give a list, a DataLoader or a tensor with at "
            "least one batch (an iterator that was used before is empty)"
        )
    longest = inputs.longest
    if longest:
        sizes = [replace(s, longest=longest[s.name]) for s in captured.signature.varying]
        captured.signature = replace(captured.signature, varying=tuple(sizes))
    for name, histogram in tally.histograms.items():
        if not histogram.total:
            raise CalibrationError(f"{name}: its input is empty on the calibration data")
    note = _unmoved(tally.histograms, network.failed)
    if note is not None and note not in captured.notes:
        captured.notes.append(note)
    return Observed(tally.histograms, tally.neurons(inputs.images), inputs.images, inputs.ranges)


def with_positions(captured: Captured) -> list[bool]:
    """Whether each flat output has a part for each position of a text that may be padded."""
    name = padding_size(captured.signature)
    if name is None:
        return []
    example = next(size.example for size in captured.signature.varying if size.name == name)
    output = next(iter(reversed(captured.graph_module.graph.nodes)))
    returned: Any = output.args[0]
    return [isinstance(n, Node) and has_positions(n, name, example) for n in returned]


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
