"""What a converted network really does: reads a SpikingModel, changes nothing."""

from .auditing import Audit, audit

__all__ = ["Audit", "audit"]
