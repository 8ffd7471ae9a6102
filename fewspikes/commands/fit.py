"""Fits a few-spikes neuron to one activation function and prints what each K costs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from torch import Tensor

import convert
from convert.common.tables import table
from convert.evaluation.plots import draw_fits
from convert.fitting.distributions import distribution
from convert.fitting.functions import function_named, problem_of
from convert.fitting.measure import measure, rows_to_json
from convert.fitting.methods import DEFAULT, EFFORTS, METHODS, check, warm_up

from .endings import run_command
from .kinds import Parser, add_common, add_gates, at_least_zero, finite, place, steps


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    result.add_argument("name", help="a function of torch.nn.functional or torch, e.g. silu")
    result.add_argument("--low", type=finite, help="inputs are uniform from here ...")
    result.add_argument("--high", type=finite, help="... to here")
    result.add_argument("--normal", type=finite, nargs=2, metavar=("MEAN", "STD"))
    result.add_argument("--steps", required=True, type=steps, nargs="+", metavar="K")
    add_gates(result)
    result.add_argument("--method", choices=sorted(METHODS), default=DEFAULT)
    result.add_argument("--effort", choices=EFFORTS, default="normal")
    result.add_argument(
        "--spike-cost",
        type=at_least_zero,
        default=0.0,
        help="squared error that one spike fewer is worth",
    )
    result.add_argument("--json", type=place, metavar="FILE")
    result.add_argument("--plot", type=place, metavar="FILE")
    add_common(result)
    return result


def check_all(function: Callable[[Tensor], Tensor], options: argparse.Namespace) -> None:
    """Refuses before anything is compiled what the fits would refuse after."""
    check(options.method, options.effort, options.seed)
    if options.spike_cost != 0 and options.method != "tbpi-exact":
        raise convert.FitError(f"--spike-cost needs --method tbpi-exact, found {options.method}")
    edges, weights = distribution(low=options.low, high=options.high, normal=options.normal)
    for k in options.steps:
        problem_of(function, edges, weights, k, spike_cost=options.spike_cost, gates=options.gates)


def run(options: argparse.Namespace) -> None:
    """Fits for every K, prints the table, and writes what was asked for."""
    function = function_named(options.name)
    check_all(function, options)
    compilation = warm_up(options.method, None, not options.quiet)
    print(f"{options.name}, method {options.method}, seed {options.seed}")
    print(f"compilation, kept on disk and not counted below: {compilation:.1f} s", flush=True)
    fits = measure(
        function,
        options.steps,
        low=options.low,
        high=options.high,
        normal=options.normal and tuple(options.normal),
        method=options.method,
        effort=options.effort,
        spike_cost=options.spike_cost,
        gates=options.gates,
        seed=options.seed,
        progress=not options.quiet,
    )
    columns = ("K", "MSE", "relative MSE", "largest error", "spikes", "start", "seconds")
    print(
        table(
            columns,
            [
                (f.steps, f"{f.mse:.4g}", f.relative_mse, f.worst, f.spikes, f.start, f.seconds)
                for f in fits
            ],
        )
    )
    if options.json:
        rows_to_json(fits, options.json)
        print(f"written: {options.json}")
    if options.plot:
        draw_fits(function, fits, options.plot, options.name)
        print(f"written: {options.plot}")


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(parser(), run, files=["json", "plot"])
