"""What an evaluation is made with, and what it added up so far as values that are kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..common.device_sums import DeviceSum
from ..common.fingerprints import fingerprint, of_network, surroundings
from ..common.kept_stages import Stages
from ..common.packed_values import packed
from ..network.model import SpikingModel
from . import rows
from .class_spaces import ClassSpace
from .classes import Accuracy, Agreement
from .iou import IoU
from .measures import Measure
from .output_error import OutputError
from .perplexity import Perplexity
from .relative_error import RelativeError, Spread
from .rows import Row
from .runs import Run, device_of
from .tokens import TokenTargets

# The package's own measures, of whose code is known whether it changed.
_MEASURES = (Accuracy, Agreement, IoU, OutputError, Perplexity)
CLASSES = (*_MEASURES, ClassSpace, DeviceSum, RelativeError, Spread, TokenTargets)
ROWS = tuple(c for c in vars(rows).values() if isinstance(c, type) and issubclass(c, Row))


def kept_for(
    stages: Stages,
    snn: SpikingModel,
    original: nn.Module,
    metric: tuple[str, Measure] | None,
    steps: Sequence[int],
    by_site: int,
) -> Stages:
    """The stages of an evaluation; none where it is measured by a metric of the user's.

    Args:
        stages: in the folder that was given.
        snn, original: the networks.
        metric: its name and a measure to which nothing was added; None for what suits.
        steps: after which the network is read out.
        by_site: images on which sites are measured.
    """
    if metric is not None and type(metric[1]) not in _MEASURES:
        if stages.kept:
            warnings.warn(
                f"metric {metric[0]} isn't the package's own: of its code can't be told whether it "
                "changes, so the evaluation isn't kept",
                stacklevel=4,
            )
        return Stages()

    def facts() -> dict[str, Any]:
        return {
            **surroundings(device_of(snn)),
            "the device of the original": str(device_of(original)),
            "the spiking network": of_network(snn),
            "the original": of_network(original),
            "the metric": "what suits" if metric is None else metric[0],
            "the metric's settings": "" if metric is None else fingerprint(_bytes(metric[1])),
            "the readouts": ", ".join(map(str, steps)),
            "by_site": by_site,
        }

    return stages.under(facts=facts)


def of_batches(kept: Sequence[Any]) -> dict[str, str]:
    """The batches on which sites are measured, as a fact."""
    return {"the images to measure sites on": fingerprint(kept)}


def state_of(measures: Sequence[Measure], runs: Iterable[Run]) -> dict[str, Any]:
    """What was added up.

    Args:
        measures: that are no run's.
        runs: of the spiking network.
    """
    return {
        "measures": list(measures),
        "runs": [(run.measure, run.spikes, run.neurons) for run in runs],
    }


def restore(measures: Sequence[Measure], runs: Iterable[Run], state: Mapping[str, Any]) -> None:
    """Puts what `state_of` gave in place of what was added up."""
    for measure, known in zip(measures, state["measures"], strict=True):
        _refill(measure, known)
    for run, (measure, spikes, neurons) in zip(runs, state["runs"], strict=True):
        _refill(run.measure, measure)
        run.spikes.clear()
        run.spikes.update(spikes)
        if run.neurons is not None:
            run.neurons.clear()
            run.neurons.update(neurons)


def _refill(measure: Measure, known: Measure) -> None:
    vars(measure).clear()
    vars(measure).update(vars(known))


def _bytes(measure: Measure) -> bytes:
    return packed(measure, CLASSES)
