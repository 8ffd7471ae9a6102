"""`fewspikes energy`: what a saved network's operations cost, beside other networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from . import kinds
from .endings import WRONG_USE, Refusal, ended
from .left_out import told_left_out
from .options import (
    DATA,
    MEASURES,
    SOURCES,
    BatchSize,
    Device,
    JsonFlag,
    Network,
    Tested,
    choice,
    flag,
    text,
    together,
    value,
)
from .results import json_alone
from .saved import BAD_DATA, open_data, opened, prepared

EXAMPLES = """\
Examples:
  fewspikes energy out/resnet20_silu.fsnn --data cifar10
  fewspikes energy net.fsnn --data photos/ --limit 50 --costs 7nm --json
"""


@dataclass(kw_only=True)
class EnergyOptions(Tested):
    """What `fewspikes energy` takes beside the file."""

    data: Annotated[
        str,
        text("SOURCE", f"to count operations on: {SOURCES}", DATA),
    ]
    limit: Annotated[
        int | None,
        value(kinds.whole, "N", "count on N, drawn by --seed equally from every class", DATA),
    ] = 100
    batch_size: BatchSize = 50
    steps: Annotated[int | None, value(kinds.whole, "K", "another K that FILE holds", MEASURES)] = (
        None
    )
    costs: Annotated[
        str,
        text("45nm|7nm|FILE", "what an operation costs: a table, or JSON as it", MEASURES),
    ] = "45nm"
    memory: Annotated[
        Literal["sram", "dram"] | None,
        choice("where weights lie; the smallest SRAM that holds them, else DRAM", MEASURES),
    ] = None
    sum_bits: Annotated[int, value(kinds.whole, "16|32", "width of sums in integers", MEASURES)] = (
        32
    )
    hardware_only: Annotated[
        bool, flag("refuse operations that no spiking hardware does", MEASURES)
    ] = False
    device: Device = "cpu"
    json: JsonFlag = False


def price(file: Network, *, options: Annotated[EnergyOptions, together()]) -> int:
    """Counts a saved network's operations on images, and prices them beside other networks.

    Prints a range for each network: arithmetic alone and with memory. docs/energy.md explains them.
    """
    return ended(lambda: _run(file, options), traceback=options.traceback)


def _run(file: str, options: EnergyOptions) -> None:
    """Loads, counts, prices and prints."""
    import convert
    from convert.inspect import count_operations, energy
    from convert.inspect.energy_costs import read_costs
    from fewspikes import models

    from .our_models import sources

    costs = read_costs(options.costs)
    snn = opened(file, options.device)
    steps = options.steps or snn.steps
    try:
        with snn.with_steps(steps):
            pass
    except convert.ConversionError as error:
        raise Refusal(WRONG_USE, f"--steps: {error}") from error
    with json_alone(options.json) as tell:
        try:
            data = open_data(options.data, prepared(snn, file, options), options, labelled=False)
            with snn.with_steps(steps):
                counts = count_operations(snn, data, progress=not options.quiet)
            told_left_out(options, sources.left_out(test=data))
            found = energy(
                counts,
                options.costs,
                memory=options.memory,
                sum_bits=options.sum_bits,
                hardware_only=options.hardware_only,
            )
        except (convert.ConversionError, models.ModelError, models.DataError) as error:
            raise Refusal(BAD_DATA, error) from error
        print(f"{file} on {options.data}, K = {steps}, seed {options.seed}, {costs.name}")
        print(*sources.drawn(data), "", sep="\n")
        print(found)
        tell(found.to_dict() | {"file": file, "steps": steps})
