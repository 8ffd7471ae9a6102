"""Builds the library of fitted tables that ships with the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from convert.fitting.build_library import WANTED, build
from convert.fitting.library import FILE, Entry
from convert.fitting.methods import EFFORTS


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    names = sorted({wanted.function for wanted in WANTED})
    result.add_argument(
        "names", nargs="*", help=f"functions; all of {', '.join(names)} unless given"
    )
    result.add_argument("--effort", choices=EFFORTS, default="high")
    result.add_argument("--seed", type=int, default=0)
    folder = Path("convert/fitting/data")
    result.add_argument("--out", type=Path, default=folder / FILE, metavar="FILE")
    result.add_argument("--quiet", action="store_true")
    return result


def told(entry: Entry) -> None:
    """One line an entry."""
    errors = "  ".join(f"K={k} {entry.solutions[k].mse:.3g}" for k in (4, 8, 12, 16))
    print(f"{entry.function:12} {entry.inputs:24} {errors}", flush=True)


def main() -> int:
    """Entry point."""
    options = parser().parse_args()
    unknown = sorted(set(options.names) - {wanted.function for wanted in WANTED})
    if unknown:
        print(f"error: the library has no {', '.join(unknown)}", file=sys.stderr)
        return 2
    print(f"effort {options.effort}, seed {options.seed}")
    build(
        options.out,
        effort=options.effort,
        seed=options.seed,
        chosen=[w for w in WANTED if not options.names or w.function in options.names],
        progress=not options.quiet,
        told=told,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
