"""What each site does to the outputs: alone, and together with all before it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch

from ..common.kept_passes import KeptRows
from ..common.kept_stages import Stages
from ..common.progress import Progress
from ..common.ranks import team
from ..network.model import SpikingModel
from .kept_sums import ROWS, of_batches
from .measures import Measure, Outputs
from .rows import Row, SiteErrorRow
from .runs import by_image, device_of, eval_mode, outputs

# Inputs ``(args, kwargs)`` of a batch, and its labels.
Kept = tuple[Any, Any]


def errors_by_site(
    snn: SpikingModel,
    kept: Sequence[Kept],
    kind: Measure,
    *,
    stages: Stages | None = None,
    progress: bool = True,
) -> tuple[SiteErrorRow, ...]:
    """Error of the output with one site spiking, and with all sites up to it, in graph order.

    Args:
        snn: the network; each site costs two passes.
        kept: inputs ``(args, kwargs)`` and labels as the measure takes them, or None, a batch; the
            reference is the network with no site spiking.
        kind: what is measured.
        stages: where the rows are kept; they say what the network is.
        progress: shows a bar on stderr; one line a minute where that is no terminal.
    """
    names, device = list(snn.sites), device_of(snn)

    def found(inputs: Any) -> Outputs:
        return by_image(snn.signature, outputs(snn, inputs, device), kind)

    with torch.no_grad(), eval_mode(snn):
        with snn.spiking_only(()):
            expected = [found(inputs) for inputs, _ in kept]

        def measured(spiking: Collection[str]) -> Row:
            measure = kind.start()
            with snn.spiking_only(spiking):
                for (inputs, labels), reference in zip(kept, expected, strict=True):
                    measure.add(found(inputs), reference, labels)
            return measure.site

        def row(name: str) -> SiteErrorRow:
            before = frozenset(names[: names.index(name) + 1])
            return SiteErrorRow(name, measured({name}), measured(before))

        told = (stages or Stages()).under(facts=partial(of_batches, kept))
        rows: KeptRows[SiteErrorRow] = KeptRows(told, "sites", ROWS)
        together = team()
        own_names = names if together is None else together.share(names)
        for name in Progress(own_names, "evaluate by site", shown=progress):
            rows.add(partial(row, name))
        rows.finish()
    found_rows = rows.rows if together is None else together.merged("evaluate by site", rows.rows)
    return tuple(found_rows)
