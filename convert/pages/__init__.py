"""Pages for a browser: what a conversion gave, in one file that needs nothing else."""

from .writing import Conversion, write_comparison, write_report

__all__ = ["Conversion", "write_comparison", "write_report"]
