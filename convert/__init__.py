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
    RangeWarning,
    SiteError,
    StorageError,
)
from .evaluate import evaluate
from .evaluation import Evaluation
from .features import features
from .fit.activation import fit
from .fit.methods import DEFAULT as DEFAULT_METHOD
from .fit.methods import METHODS
from .inspect import Audit, audit
from .neuron import FewSpikesNeuron
from .refit import refit
from .report import Report
from .spiking import SpikingModel
from .storage import load

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Audit",
    "CalibrationError",
    "CaptureError",
    "ConversionError",
    "Evaluation",
    "ExportError",
    "FewSpikesNeuron",
    "FitError",
    "InputError",
    "RangeWarning",
    "Report",
    "SiteError",
    "SpikingModel",
    "StorageError",
    "audit",
    "evaluate",
    "features",
    "fit",
    "load",
    "refit",
    "to_spiking",
]
