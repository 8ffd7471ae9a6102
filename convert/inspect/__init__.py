"""What a converted network really does: reads a SpikingModel, changes nothing."""

from .auditing import Audit, audit
from .energy import energy

__all__ = ["Audit", "audit", "energy"]
