"""What `fewspikes convert` takes; annotations are no strings here, as in `options`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from . import kinds
from .endings import processes
from .options import (
    CONVERSION,
    DATA,
    DEFAULT_METHOD,
    GENERAL,
    MEASURES,
    MODEL,
    SOURCES,
    BatchSize,
    Device,
    Effort,
    Gates,
    JsonFlag,
    Method,
    Preparing,
    Reading,
    Seeded,
    choice,
    flag,
    text,
    value,
    values,
)

_SPEC = (
    "a name of models.names(), torchvision:NAME, timm:NAME, hf:FOLDER_OR_NAME, or "
    "FILE.py:FUNCTION (the file is imported: its code runs)"
)

# Those of models.preprocessing and models, which import torch.
Interpolation = Literal["bicubic", "bilinear", "box", "hamming", "lanczos", "nearest"]
Activation = Literal[
    "elu", "gelu", "hardswish", "leaky_relu", "mish", "relu", "sigmoid", "silu", "softplus", "tanh"
]

Model = Annotated[str, text("MODEL", _SPEC, MODEL)]


def _kept_place(text: str) -> Path:
    """The folder of stages, which one process alone keeps."""
    if (several := processes()) > 1:
        raise kinds.WrongValue(
            f"stages are kept by one process alone, and torchrun started {several}; leave --resume "
            "out, or run one process"
        )
    return kinds.place(text)


@dataclass(kw_only=True)
class ModelOptions(Preparing):
    """Which model, and how its inputs are prepared."""

    weights: Annotated[
        str | None,
        text(
            "FILE|random|DEFAULT",
            "a checkpoint; 'random' for an untrained network; 'DEFAULT' for timm's or "
            "torchvision's own, which it downloads, as if left out",
            MODEL,
        ),
    ] = None
    activation: Annotated[Activation | None, choice("of a CIFAR model", MODEL)] = None
    device: Device = "cpu"
    resize: Annotated[
        int | None,
        value(kinds.whole, "N", "shorter side of an image before its middle is cut out", DATA),
    ] = None
    interpolation: Annotated[Interpolation | None, choice("of --resize", DATA)] = None
    tokenizer: Annotated[
        str | None, text("NAME", "'bytes', or a folder, zip or cached name", DATA)
    ] = None
    length: Annotated[
        int | None, value(kinds.whole, "TOKENS", "of a block or a line of text", DATA)
    ] = None


@dataclass(kw_only=True)
class SettingsOptions:
    """How is converted."""

    steps: Annotated[
        list[int | str],
        values(kinds.steps_or_auto, "K", "time steps of a neuron; or auto: K per site", CONVERSION),
    ]
    gates: Gates = 0
    max_loss: Annotated[
        float | None,
        value(kinds.fraction, "X", "with auto: relative squared output error", CONVERSION),
    ] = None
    budget: Annotated[
        int | None, value(kinds.whole, "N", "with auto: steps of all sites", CONVERSION)
    ] = None
    budget_spikes: Annotated[
        float | None,
        value(kinds.positive, "N", "with auto: events per neuron of the network", CONVERSION),
    ] = None
    budget_operations: Annotated[
        float | None,
        value(kinds.positive, "N", "with auto: operations for one image", CONVERSION),
    ] = None
    budget_energy: Annotated[
        float | None,
        value(kinds.positive, "NJ", "with auto: nanojoules for one image", CONVERSION),
    ] = None
    spike_cost: Annotated[
        float,
        value(
            kinds.at_least_zero,
            "PRICE",
            "of one event per neuron, in the unit of the outputs' relative squared error; with "
            "auto, K and gates are chosen for the fewest events",
            CONVERSION,
        ),
    ] = 0.0
    method: Annotated[Method, choice("how tables are fitted", CONVERSION)] = DEFAULT_METHOD
    effort: Annotated[Effort, choice("of the fit", CONVERSION)] = "normal"
    encode: Annotated[
        Literal["operands", "all"] | None,
        choice(
            "neurons on analog operands of multiplications (the same as no word behind it); "
            "'all': on the image too",
            CONVERSION,
        ),
    ] = None
    plain: Annotated[bool, flag("leave the layers' mean errors in their biases", CONVERSION)] = (
        False
    )
    normalisation: Annotated[
        bool,
        flag(
            "layer, group, instance and RMS norms as neurons for their squares and inverse roots",
            CONVERSION,
        ),
    ] = False
    max_pool: Annotated[
        Literal["all", "first"] | None,
        choice(
            "max pooling and row maxima as tournaments of ReLUs ('all', or no word behind it); "
            "'first': poolings come before the monotone activation that precedes them, and remain",
            CONVERSION,
        ),
    ] = None
    modules: Annotated[
        list[str] | None,
        values(
            str,
            "NAME",
            "convert these parts of the model only, by name or glob; the rest runs as it is",
            CONVERSION,
        ),
    ] = None
    dynamic: Annotated[
        list[tuple[str, int, str]] | None,
        values(
            kinds.axis_name,
            "INPUT:AXIS=NAME",
            "an input's axis that may have any length, as in input_ids:1=length",
            CONVERSION,
        ),
    ] = None


@dataclass(kw_only=True)
class SourceOptions:
    """The two sources."""

    data: Annotated[str, text("SOURCE", f"for the test: {SOURCES}", DATA)]
    calibration: Annotated[
        str | None,
        text("SOURCE", "to convert with; --data (its training part) if left out", DATA),
    ] = None
    calibration_size: Annotated[
        int, value(kinds.whole, "N", "images or texts to convert with", DATA)
    ] = 512


@dataclass(kw_only=True)
class ConvertOptions(ModelOptions, SettingsOptions, Reading, SourceOptions, Seeded):
    """What `fewspikes convert` takes beside the model."""

    batch_size: BatchSize = 32
    metric: Annotated[
        Literal["accuracy", "output", "perplexity"] | None,
        choice("accuracy, or of a language model perplexity, if left out", MEASURES),
    ] = None
    by_site: Annotated[
        int,
        value(kinds.count, "N", "images on which each site's error is measured; 0: none", MEASURES),
    ] = 64
    audit: Annotated[bool, flag("also list what really ran outside the neurons", MEASURES)] = False
    pareto: Annotated[
        list[float] | None,
        values(
            kinds.at_least_zero,
            "PRICE",
            "also fit the network with these prices of spikes; events against error in a table, "
            "pareto.json and pareto.png",
            MEASURES,
        ),
    ] = None
    json: JsonFlag = False
    output: Annotated[Path, value(kinds.place, "DIR", "what the results are written to", GENERAL)]
    resume: Annotated[
        Path | None,
        value(
            _kept_place,
            "DIR",
            "keep every stage here; after a kill, the same command goes on from the last",
            GENERAL,
        ),
    ] = None


@dataclass(kw_only=True)
class CifarOptions(ConvertOptions):
    """What scripts/convert_cifar.py takes: the same, with larger batches."""

    batch_size: BatchSize = 250
