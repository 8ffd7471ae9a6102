"""Trained networks in, few-spikes networks out.

The rooms, in the order in which data flows: capture, sites, calibrate, fit, swap, evaluate,
save.
"""

from .capture.stepwise import stepwise
from .common.kept_stages import KeptStages
from .common.ranks import one_process
from .conversion import to_spiking
from .errors import (
    CalibrationError,
    CaptureError,
    ConversionError,
    ExportError,
    FitError,
    InputError,
    RangeWarning,
    ResumeError,
    SiteError,
    StorageError,
)
from .evaluation.iou import IoU
from .evaluation.measure import evaluate
from .evaluation.metrics import METRICS, register_metric
from .evaluation.perplexity import Perplexity
from .evaluation.result import Evaluation
from .evaluation.trade_off import TradeOff
from .fitting.activation import fit
from .fitting.methods import DEFAULT as DEFAULT_METHOD
from .fitting.methods import METHODS, register_method
from .graph.decompositions import register_decomposition
from .graph.operators import register_operator
from .hardware.quantise import quantise
from .inspect import Audit, audit
from .network.layer_outputs import features
from .network.model import SpikingModel
from .network.report import Report
from .network.settings import ConversionSettings
from .neuron.few_spikes import FewSpikesNeuron
from .pages import Conversion, write_comparison, write_report
from .pricing import pareto
from .refitting import refit
from .storage.file import load

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "METRICS",
    "Audit",
    "CalibrationError",
    "CaptureError",
    "Conversion",
    "ConversionError",
    "ConversionSettings",
    "Evaluation",
    "ExportError",
    "FewSpikesNeuron",
    "FitError",
    "InputError",
    "IoU",
    "KeptStages",
    "Perplexity",
    "RangeWarning",
    "Report",
    "ResumeError",
    "SiteError",
    "SpikingModel",
    "StorageError",
    "TradeOff",
    "audit",
    "evaluate",
    "features",
    "fit",
    "load",
    "one_process",
    "pareto",
    "quantise",
    "refit",
    "register_decomposition",
    "register_method",
    "register_metric",
    "register_operator",
    "stepwise",
    "to_spiking",
    "write_comparison",
    "write_report",
]
