"""What corrections and the check of a network are made with."""

from __future__ import annotations

from ..common.fingerprints import fingerprint, of_network
from ..common.kept_stages import Stages
from ..network.model import SpikingModel
from .side_by_side import Sample


def kept_for(stages: Stages, sample: Sample) -> Stages:
    """The stages of what is measured on calibration images.

    Args:
        stages: of the network.
        sample: the images.
    """
    return stages.under(
        facts=lambda: {"the images to correct on": fingerprint(sample.pieces, sample.others)}
    )


def of_neurons(snn: SpikingModel) -> dict[str, str]:
    """The network with its neurons and corrections, as a fact."""
    return {"the network with its neurons": of_network(snn)}
