"""Builds the library of fitted tables that ships with the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from arguments import Parser, add_common
from command import run_command

from convert.fitting.build_library import WANTED, build
from convert.fitting.library import FILE, Entry
from convert.fitting.methods import EFFORTS
from fewspikes.commands.endings import WRONG_USE, Refusal, leave
from fewspikes.commands.kinds import place


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    names = sorted({wanted.function for wanted in WANTED})
    result.add_argument(
        "names", nargs="*", help=f"functions; all of {', '.join(names)} unless given"
    )
    result.add_argument("--effort", choices=EFFORTS, default="high")
    folder = Path("convert/fitting/data")
    result.add_argument("--out", type=place, default=folder / FILE, metavar="FILE")
    add_common(result)
    return result


def told(entry: Entry) -> None:
    """One line an entry."""
    errors = "  ".join(f"K={k} {entry.solutions[k].mse:.3g}" for k in (4, 8, 12, 16))
    print(f"{entry.function:12} {entry.inputs:24} {errors}", flush=True)


def run(options: argparse.Namespace) -> None:
    """Fits what was asked for and writes the library."""
    unknown = sorted(set(options.names) - {wanted.function for wanted in WANTED})
    if unknown:
        raise Refusal(WRONG_USE, f"the library has no {', '.join(unknown)}")
    print(f"effort {options.effort}, seed {options.seed}", flush=True)
    build(
        options.out,
        effort=options.effort,
        seed=options.seed,
        chosen=[w for w in WANTED if not options.names or w.function in options.names],
        progress=not options.quiet,
        told=told,
    )


def main() -> int:
    """Entry point."""
    return run_command(parser(), run, files=["out"])


if __name__ == "__main__":
    leave(main())
