"""How much room on a disk the results of a conversion take, by what the model is."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from ..calibration.kept_tally import STAGE_BYTES

# The graph and the report, whatever they are of.
_TEXT = 8_000_000


class Room(NamedTuple):
    """Bytes on a disk.

    Args:
        network: of its file.
        stages: of what is kept on the way.
    """

    network: int
    stages: int


def room_for(model: nn.Module) -> Room:
    """What a conversion of a model may take, before it is captured: its tensors and histograms.

    Args:
        model: in which at most every module is a site.
    """
    tensors = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    histograms = STAGE_BYTES * sum(1 for _ in model.modules())
    return Room(tensors + histograms // 2 + _TEXT, histograms)
