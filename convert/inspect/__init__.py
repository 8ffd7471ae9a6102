"""What a converted network really does: reads a SpikingModel, changes nothing."""

from .auditing import Audit, audit
from .counting import count_operations
from .energy import energy
from .simulation import simulate

__all__ = ["Audit", "audit", "count_operations", "energy", "simulate"]
