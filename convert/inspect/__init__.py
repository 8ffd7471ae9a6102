"""What a converted network really does: reads a SpikingModel, changes nothing."""

from .auditing import Audit, audit
from .energy import energy
from .simulation import simulate
from .spiking_module import as_spiking_module

__all__ = ["Audit", "as_spiking_module", "audit", "energy", "simulate"]
