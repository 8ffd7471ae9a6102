"""`fewspikes evaluate`: a saved network against its original or a checkpoint."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from . import kinds
from .endings import WRONG_USE, Refusal, ended
from .left_out import told_left_out
from .options import (
    DATA,
    MEASURES,
    MODEL,
    SOURCES,
    Device,
    JsonFile,
    Metric,
    Network,
    Tested,
    choice,
    text,
    together,
    value,
)
from .saved import BAD_DATA, open_data, opened, prepared

if TYPE_CHECKING:
    from torch import nn

    import convert

BELOW = 5
CODES = f"""\
  {BELOW}    evaluated, and below --min-accuracy or --min-agreement
"""
EXAMPLES = """\
Examples:
  fewspikes evaluate out/resnet20_silu.fsnn --data cifar10
  fewspikes evaluate out/resnet20_silu.fsnn --data cifar10 --step 4 --json report.json
  fewspikes evaluate net.fsnn --data photos/ --against weights.pt --min-agreement 0.95
"""


@dataclass(kw_only=True)
class EvaluateOptions(Tested):
    """What `fewspikes evaluate` takes beside the file."""

    data: Annotated[str, text("SOURCE", SOURCES, DATA)]
    step: Annotated[
        int | None,
        value(kinds.whole, "T", "read out after step T too; every step if left out", MEASURES),
    ] = None
    against: Annotated[
        str,
        text(
            "original|CHECKPOINT",
            "the exact functions in FILE, or weights of the model that it was converted from",
            MODEL,
        ),
    ] = "original"
    model: Annotated[
        str | None,
        text("NAME", "of CHECKPOINT, or around parts; what FILE says if left out", MODEL),
    ] = None
    metric: Annotated[
        Metric | None, choice("what is measured; what suits the outputs if left out", MEASURES)
    ] = None
    by_site: Annotated[
        int,
        value(kinds.count, "N", "images on which each site's error is measured; 0: none", MEASURES),
    ] = 0
    device: Device = "cpu"
    min_accuracy: Annotated[
        float | None, value(kinds.fraction, "X", "a fraction; see exit codes", MEASURES)
    ] = None
    min_agreement: Annotated[
        float | None, value(kinds.fraction, "X", "a fraction; see exit codes", MEASURES)
    ] = None
    json: JsonFile = None


def evaluate_network(file: Network, *, options: Annotated[EvaluateOptions, together()]) -> int:
    """Evaluates a saved few-spikes network, against its original or a checkpoint.

    Results go to stdout, progress and errors to stderr.
    """
    return ended(lambda: _run(file, options), traceback=options.traceback, files=[options.json])


def _checkpoint(
    snn: convert.SpikingModel, file: str, options: EvaluateOptions, classes: int | None
) -> nn.Module | None:
    """The model to compare with, None for the exact functions in the file.

    A file of converted parts needs the model around them: with the weights of --against, or those
    that it has by itself.
    """
    from convert.parts.model import SpikingParts
    from fewspikes import models

    own = options.against == "original"
    if own and not isinstance(snn, SpikingParts):
        return None
    name = options.model or snn.metadata.get("model")
    if not isinstance(name, str):
        raise Refusal(WRONG_USE, f"{file} names no model; give --model for the checkpoint")
    library = name.partition(":")[0]
    if options.model is None and ":" in name and library not in ("timm", "torchvision"):
        raise Refusal(
            WRONG_USE,
            f"{file} says that its model is {name[:60]!r}, which may run code or read files; give "
            "--model yourself",
        )
    activation = None if options.model else snn.metadata.get("activation")
    if activation is not None and not isinstance(activation, str):
        raise Refusal(WRONG_USE, f"{file} names no activation; give --model")
    weights = None if own else options.against
    return models.get(name, weights, activation, classes).to(options.device)


def _check_limits(snn: convert.SpikingModel, options: EvaluateOptions) -> None:
    """Refuses a step that the network doesn't have, and a limit on what isn't measured."""
    import convert

    if options.step is not None and options.step > snn.longest:
        raise Refusal(WRONG_USE, f"--step {options.step}: the network has steps 1 to {snn.longest}")
    if options.metric is None:
        return
    for key, limit in _limits(options).items():
        if limit is not None and key not in convert.METRICS[options.metric]().shown().columns:
            raise Refusal(WRONG_USE, f"--min-{key}: --metric {options.metric} measures no {key}")


def _limits(options: EvaluateOptions) -> dict[str, float | None]:
    return {"accuracy": options.min_accuracy, "agreement": options.min_agreement}


def _run(file: str, options: EvaluateOptions) -> int:
    """Loads, evaluates and prints; returns the exit code."""
    import convert
    from fewspikes import models

    snn = opened(file, options.device)
    _check_limits(snn, options)
    try:
        result, facts = _measured(snn, file, options)
    except (convert.ConversionError, models.ModelError, models.DataError) as error:
        raise Refusal(BAD_DATA, error) from error
    if options.json == "-":
        print(json.dumps(result.to_dict(**facts), indent=1, allow_nan=False))
    else:
        print(result)
        if options.json:
            result.to_json(options.json, **facts)
    measured: Mapping[str, Any] = result.spiking
    if options.step is not None:
        measured = next(row for row in result.by_step if row.step == options.step)
    return BELOW if _below(options, measured) else 0


def _measured(
    snn: convert.SpikingModel, file: str, options: EvaluateOptions
) -> tuple[convert.Evaluation, dict[str, Any]]:
    """The evaluation, and what its report says of file and images; prints the latter."""
    import convert
    from convert.parts.model import SpikingParts
    from fewspikes import models

    from .our_models import sources

    preparing = prepared(snn, file, options)
    metric = options.metric or sources.check_metric(None, preparing)
    images = isinstance(preparing, models.Preprocessing)
    model = _checkpoint(snn, file, options, preparing.classes if images else None)
    if isinstance(snn, SpikingParts) and model is not None:
        snn = snn.into(model)
    labelled = metric in (None, "accuracy", "agreement", "classes")
    test = open_data(options.data, preparing, options, labelled=labelled)
    result = convert.evaluate(
        snn,
        model,
        test,
        metric=metric,
        by_site=options.by_site,
        at=None if options.step is None else [options.step],
        progress=not options.quiet,
    )
    facts: dict[str, Any] = {
        "file": file,
        "against": options.against,
        "preprocessing": preparing.to_dict(),
    }
    draws = sources.drawn(test)
    left_out = told_left_out(options, sources.left_out(test=test))
    facts |= ({"drawn": draws} if draws else {}) | left_out
    if options.json != "-":
        print(f"{file} on {options.data}, {preparing}, against {options.against}")
        print(*draws, "", sep="\n")
    return result, facts


def _below(options: EvaluateOptions, measured: Mapping[str, Any]) -> bool:
    """Whether a limit is missed; says which on stderr."""
    missed = False
    for key, limit in _limits(options).items():
        # NaN is below every limit, and so is what could not be measured.
        found = math.nan if measured.get(key) is None else measured[key]
        if limit is not None and not found >= limit:
            print(f"{key} {found:.4f} is below {limit:g}", file=sys.stderr)
            missed = True
    return missed
