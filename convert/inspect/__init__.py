"""What a converted network really does: reads a SpikingModel, changes nothing."""

from .auditing import Audit, audit
from .energy import energy
from .simulation import simulate

__all__ = ["Audit", "audit", "energy", "simulate"]
