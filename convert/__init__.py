"""Trained networks in, few-spikes networks out.

The rooms, in the order in which data flows: capture, sites, calibrate, fit, swap, evaluate,
save.
"""

from .conversion import to_spiking
from .errors import (
    CalibrationError,
    CaptureError,
    ConversionError,
    ExportError,
    FitError,
    InputError,
    SiteError,
    StorageError,
)
from .evaluate import evaluate
from .evaluation import Evaluation
from .features import features
from .fit.activation import fit
from .fit.methods import DEFAULT as DEFAULT_METHOD
from .fit.methods import METHODS
from .neuron import FewSpikesNeuron
from .refit import refit
from .report import Report
from .spiking import SpikingModel
from .storage import load

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "CalibrationError",
    "CaptureError",
    "ConversionError",
    "Evaluation",
    "ExportError",
    "FewSpikesNeuron",
    "FitError",
    "InputError",
    "Report",
    "SiteError",
    "SpikingModel",
    "StorageError",
    "evaluate",
    "features",
    "fit",
    "load",
    "refit",
    "to_spiking",
]
