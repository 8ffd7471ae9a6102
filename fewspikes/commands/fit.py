"""`fewspikes fit`: a neuron for one function, and what each K costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import kinds
from .endings import ended
from .options import (
    CONVERSION,
    DEFAULT_METHOD,
    Effort,
    Gates,
    JsonFile,
    Method,
    Seeded,
    choice,
    pair,
    text,
    together,
    value,
    values,
)
from .results import json_alone

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLES = """\
Examples:
  fewspikes fit silu --low -8 --high 12 --steps 4 8 --plot silu.png
  fewspikes fit gelu --normal 0 1 --steps 4 --gates 3 --json
"""

Name = Annotated[
    str, text("NAME", "a function of torch.nn.functional or torch, e.g. silu", CONVERSION)
]


@dataclass(kw_only=True)
class FitOptions(Seeded):
    """What `fewspikes fit` takes beside the function."""

    steps: Annotated[
        list[int], values(kinds.steps, "K", "time steps, one fit for each", CONVERSION)
    ]
    low: Annotated[
        float | None, value(kinds.finite, "X", "inputs are uniform from here ...", CONVERSION)
    ] = None
    high: Annotated[float | None, value(kinds.finite, "X", "... to here", CONVERSION)] = None
    normal: Annotated[
        tuple[float, float] | None,
        pair(kinds.finite, "MEAN STD", "or inputs are normal: their mean and spread", CONVERSION),
    ] = None
    gates: Gates = 0
    method: Annotated[Method, choice("how tables are fitted", CONVERSION)] = DEFAULT_METHOD
    effort: Annotated[Effort, choice("of the fit", CONVERSION)] = "normal"
    spike_cost: Annotated[
        float,
        value(
            kinds.at_least_zero,
            "PRICE",
            "squared error that one spike fewer is worth",
            CONVERSION,
        ),
    ] = 0.0
    json: JsonFile = None
    plot: Annotated[Path | None, value(kinds.place, "FILE", "draw the fits into a picture")] = None


def fit_function(name: Name, *, options: Annotated[FitOptions, together()]) -> int:
    """Fits a few-spikes neuron to one activation function and prints what each K costs."""
    return ended(
        lambda: _run(name, options),
        traceback=options.traceback,
        files=[options.json, options.plot],
    )


def _check(function: Callable[[Tensor], Tensor], options: FitOptions) -> None:
    """Refuses before anything is compiled what the fits would refuse after."""
    import convert
    from convert.fitting.distributions import distribution
    from convert.fitting.functions import problem_of
    from convert.fitting.methods import check

    check(options.method, options.effort, options.seed)
    if options.spike_cost != 0 and options.method != "tbpi-exact":
        raise convert.FitError(f"--spike-cost needs --method tbpi-exact, found {options.method}")
    edges, weights = distribution(low=options.low, high=options.high, normal=options.normal)
    for k in options.steps:
        problem_of(function, edges, weights, k, spike_cost=options.spike_cost, gates=options.gates)


def _run(name: str, options: FitOptions) -> None:
    """Fits for every K, prints the table, and writes what was asked for."""
    from convert.common.tables import table
    from convert.evaluation.plots import draw_fits
    from convert.fitting.functions import function_named
    from convert.fitting.measure import measure, rows_to_json
    from convert.fitting.methods import warm_up

    function = function_named(name)
    _check(function, options)
    with json_alone(options.json == "-") as tell:
        compilation = warm_up(options.method, None, not options.quiet)
        print(f"{name}, method {options.method}, seed {options.seed}")
        print(f"compilation, kept on disk and not counted below: {compilation:.1f} s", flush=True)
        fits = measure(
            function,
            options.steps,
            low=options.low,
            high=options.high,
            normal=options.normal,
            method=options.method,
            effort=options.effort,
            spike_cost=options.spike_cost,
            gates=options.gates,
            seed=options.seed,
            progress=not options.quiet,
        )
        columns = ("K", "MSE", "relative MSE", "largest error", "spikes", "start", "seconds")
        rows: list[tuple[Any, ...]] = [
            (f.steps, f"{f.mse:.4g}", f.relative_mse, f.worst, f.spikes, f.start, f.seconds)
            for f in fits
        ]
        print(table(columns, rows))
        tell([fit.to_dict() for fit in fits])
        if options.json not in (None, "-"):
            rows_to_json(fits, options.json)
            print(f"written: {options.json}")
        if options.plot:
            draw_fits(function, fits, options.plot, name)
            print(f"written: {options.plot}")
