"""The stages of a conversion: capture and passes first, then calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..calibration.histogram import Histogram
from ..calibration.kept_tally import STAGE_BYTES
from ..calibration.observe import calibrate
from ..calls.sizes import Shapes
from ..capture.capture import Captured, capture
from ..common.fingerprints import fingerprint, of_network
from ..common.kept_stages import Stages
from ..common.packed_values import packed
from ..common.timing import timed
from ..network.settings import ConversionSettings
from ..sites.find import Site
from ..sites.prepare import Preparation, prepare
from .calibrated import Calibrated
from .on_ranks import check_alike


@dataclass
class Ready:
    """A network in which every site is a call, before anything is known of its values.

    Args:
        captured: the graph.
        sites: what gets a neuron.
        batches: calibration batches.
        seconds: of the stages so far.
        device: where the network lives, if it has no tensor that says so.
    """

    captured: Captured
    sites: list[Site]
    batches: Iterable[Any]
    seconds: dict[str, float]
    device: torch.device | None


def made_ready(
    model: nn.Module,
    first: Any,
    batches: Callable[[Captured], Iterable[Any]],
    settings: ConversionSettings,
    others: Iterable[Any] = (),
    seen: Sequence[Shapes] = (),
    *,
    device: torch.device | None = None,
    progress: bool = True,
) -> Ready:
    """Captures a model and finds its sites.

    Args:
        model: what is captured; left as it was.
        first: one calibration batch.
        batches: gives the calibration batches of what was captured.
        settings: of the conversion.
        others: further batches; lengths in which they differ vary.
        seen: shapes of batches that aren't at hand.
        device: where the result lives; the model's device if None.
        progress: shows bars on stderr.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "capture"):
        captured = capture(
            model,
            first,
            device=device,
            batch_axis=settings.batch_axis,
            dynamic=settings.dynamic,
            others=others,
            seen=seen,
        )
        given = captured.signature.within(captured.batches(batches(captured)))
        sites = prepare(
            Preparation(
                captured,
                given,
                settings.normalisation,
                settings.max_pool,
                settings.encode,
                device,
                progress,
            )
        )
    return Ready(captured, sites, given, seconds, device)


def calibrated(
    ready: Ready,
    settings: ConversionSettings,
    fixed: Mapping[str, int],
    gates: Mapping[str, int],
    *,
    stages: Stages | None = None,
    progress: bool = True,
) -> Calibrated:
    """Runs the exact network on the calibration batches.

    Args:
        ready: the network.
        settings: of the conversion.
        fixed: K of the sites that have one of their own, by name.
        gates: of every site, by name.
        stages: where what calibration saw, and what is made of it, is kept.
        progress: shows bars on stderr.
    """
    captured, sites = ready.captured, ready.sites
    check_alike(captured, settings)
    target = next((t.device for t in captured.graph_module.state_dict().values()), ready.device)
    own = (stages or Stages()).under(
        facts=lambda: {"the network": of_network(captured.graph_module)}
    )
    own.check_room(len(sites) * STAGE_BYTES)
    with timed(ready.seconds, "calibrate"):
        observed = calibrate(
            captured,
            sites,
            ready.batches,
            device=target,
            seed=settings.seed,
            stages=own,
            progress=progress,
        )
    captured.tell_readings()

    def told() -> dict[str, str]:
        saw = [observed.histograms, observed.neurons, observed.images, observed.input_ranges]
        return {"what calibration saw": fingerprint(packed(saw, (Histogram,)))}

    return Calibrated(captured, sites, observed, fixed, gates, ready.batches, own.under(facts=told))
