"""How far the outputs are off on calibration data, and which site by itself does most of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from ..common.progress import Progress
from ..common.ranks import team
from ..graph.run import walk
from ..network.model import SpikingModel
from ..network.report import Correction, OutputError
from ..neuron.few_spikes import FewSpikesNeuron
from .bias_correction import neurons_of
from .side_by_side import Sample, called, relative_error

SiteNeurons = Callable[[], Mapping[str, FewSpikesNeuron]]


def output_errors(
    snn: SpikingModel,
    sample: Sample,
    corrections: Sequence[Correction],
    fitted: SiteNeurons,
    *,
    progress: bool = False,
) -> list[OutputError]:
    """The error of the outputs for every K, the network's own first.

    Args:
        snn: a converted network.
        sample: calibration images, which run through its graph.
        corrections: what was done about mean errors; where nothing was, the error is measured.
        fitted: gives the network's own neurons as they were fitted, by the name of their site.
        progress: shows a bar on stderr.
    """
    known = {r.steps: (r.images, r.after if r.kept else r.before) for r in corrections}
    rows = []
    for k in (snn.fitted_as, *map(int, snn.refitted)):
        if k in known:
            images, error = known[k]
        else:
            images, error = sample.images, sample.error(neurons_of(snn, k))
        row = OutputError(k, images, error)
        if row.poor and k == snn.fitted_as:
            row = OutputError(k, images, error, *_worst_site(snn, sample, fitted, progress))
        rows.append(row)
    return rows


def _worst_site(
    snn: SpikingModel, sample: Sample, fitted: SiteNeurons, progress: bool
) -> tuple[str, float]:
    """The site that makes the largest error if it alone spikes, and that error.

    A few images tell which it is. Biases are as trained and neurons as fitted: what they were
    corrected by belongs to errors of other sites.
    """
    network, leaves = snn.network, sample.pieces[0]
    tensors = snn.corrections.replaced(network, snn.fitted_as, frozenset())

    def outputs(modules: Mapping[str, torch.nn.Module]) -> list[list[object]]:
        calls = called({**sample.exact, **modules})
        return [list(walk(network, leaves, modules=calls, tensors=tensors))]

    alone: dict[str, float] = {}
    with torch.no_grad():
        exact = outputs({})
        together, neurons = team(), list(fitted().items())
        own = neurons if together is None else together.share(neurons)
        for site, neuron in Progress(own, "errors by site", shown=progress):
            found = outputs({snn.names[site]: neuron.to(sample.device or "cpu")})
            alone[site] = relative_error(exact, found)
    if together is not None:
        errors = together.merged("errors by site", list(alone.values()))
        alone = dict(zip((site for site, _ in neurons), errors, strict=True))
    worst = max(alone, key=alone.__getitem__)
    return worst, alone[worst]
