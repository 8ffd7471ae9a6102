"""What a converted network really does: reads a SpikingModel, changes nothing."""

from .auditing import Audit, audit
from .correlation import correlate
from .counting import count_operations
from .energy import energy
from .simulation import simulate
from .spike_plots import plot_correlation, plot_membrane, plot_raster, plot_rates
from .spiking_module import as_spiking_module

__all__ = [
    "Audit",
    "as_spiking_module",
    "audit",
    "correlate",
    "count_operations",
    "energy",
    "plot_correlation",
    "plot_membrane",
    "plot_raster",
    "plot_rates",
    "simulate",
]
