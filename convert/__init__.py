"""Trained networks in, few-spikes networks out.

The rooms, in the order in which data flows: capture, sites, calibrate, fit, swap, evaluate.
"""

from .conversion import to_spiking
from .errors import (
    CalibrationError,
    CaptureError,
    ConversionError,
    FitError,
    InputError,
    RangeWarning,
    SiteError,
)
from .evaluate import evaluate
from .evaluation import Evaluation
from .fit.activation import fit
from .fit.methods import DEFAULT as DEFAULT_METHOD
from .fit.methods import METHODS
from .inspect import Audit, audit
from .neuron import FewSpikesNeuron
from .report import Report
from .spiking import SpikingModel

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Audit",
    "CalibrationError",
    "CaptureError",
    "ConversionError",
    "Evaluation",
    "FewSpikesNeuron",
    "FitError",
    "InputError",
    "RangeWarning",
    "Report",
    "SiteError",
    "SpikingModel",
    "audit",
    "evaluate",
    "fit",
    "to_spiking",
]
