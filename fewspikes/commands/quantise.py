"""`fewspikes quantise`: a saved network in whole numbers for hardware, and what that costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from . import kinds
from .endings import WRONG_USE, Refusal, ended
from .left_out import told_left_out
from .options import (
    CONVERSION,
    DATA,
    SOURCES,
    JsonFlag,
    Network,
    Tested,
    choice,
    text,
    together,
    value,
)
from .results import json_alone
from .saved import BAD_DATA, opened, prepared

FILES = ["network.json", "network.npz", "reference.c", "loss.json"]
EXAMPLES = """\
Examples:
  fewspikes quantise net.fsnn --data cifar10 --calibration cifar10 --output chip
  fewspikes quantise net.fsnn --data test.npz --calibration train.npz \\
      --weight-bits 6 --output chip
"""


@dataclass(kw_only=True)
class QuantiseOptions(Tested):
    """What `fewspikes quantise` takes beside the file."""

    data: Annotated[str, text("SOURCE", f"for the test: {SOURCES}", DATA)]
    calibration: Annotated[str, text("SOURCE", "to quantise with", DATA)]
    calibration_size: Annotated[
        int, value(kinds.whole, "N", "images or texts to quantise with", DATA)
    ] = 512
    steps: Annotated[
        int | None, value(kinds.whole, "K", "another K that FILE holds", CONVERSION)
    ] = None
    weight_bits: Annotated[int, value(kinds.whole, "N", "of the layers", CONVERSION)] = 8
    state_bits: Annotated[int, value(kinds.whole, "N", "of the neurons", CONVERSION)] = 16
    weights: Annotated[
        Literal["power-of-two", "integer"], choice("output weights of spikes", CONVERSION)
    ] = "power-of-two"
    json: JsonFlag = False
    output: Annotated[Path, value(kinds.place, "DIR", "what the files are written to")]


def quantise_network(file: Network, *, options: Annotated[QuantiseOptions, together()]) -> int:
    """Turns a saved network into whole numbers for hardware, and measures what that costs.

    Writes network.json, network.npz, reference.c and loss.json; docs/hardware.md explains them.
    """
    return ended(
        lambda: _run(file, options),
        traceback=options.traceback,
        writes=lambda: (options.output, FILES),
    )


def _run(file: str, options: QuantiseOptions) -> None:
    """Loads, quantises, measures, prints and writes."""
    import convert
    from convert.hardware.loss import measure
    from convert.hardware.quantise import quantise
    from fewspikes import models

    from .our_models import sources

    snn = opened(file)
    bars = not options.quiet
    steps = options.steps or snn.steps
    try:
        with snn.with_steps(steps):
            pass
    except convert.ConversionError as error:
        raise Refusal(WRONG_USE, f"--steps: {error}") from error
    preparing = prepared(snn, file, options)
    with json_alone(options.json) as tell:
        try:
            data = sources.open_sources(
                options.data,
                options.calibration,
                preparing,
                calibration_size=options.calibration_size,
                limit=options.limit,
                seed=options.seed,
                batch_size=options.batch_size,
                workers=options.workers,
                evenly=False,
                labels=options.labels,
                root=options.root,
                corrupt=models.OnCorrupt(options.corrupt == "skip", options.corrupt_limit),
            )
            with snn.with_steps(steps):
                quantised = quantise(
                    snn,
                    data.calibration,
                    weight_bits=options.weight_bits,
                    state_bits=options.state_bits,
                    weights=options.weights,
                    progress=bars,
                )
            print(f"{quantised}\n", flush=True)
            loss = measure(quantised, data.test, progress=bars)
        except (convert.ConversionError, models.ModelError, models.DataError) as error:
            raise Refusal(BAD_DATA, error) from error
        told_left_out(options, sources.left_out(calibration=data.calibration, test=data.test))
        print(loss)
        paths = [*quantised.save(options.output), str(options.output / FILES[-1])]
        text = json.dumps(loss.to_dict(), indent=1, allow_nan=False)
        Path(paths[-1]).write_text(f"{text}\n")
        print(f"\nwritten: {', '.join(paths)}")
        tell(loss.to_dict() | {"files": paths})
