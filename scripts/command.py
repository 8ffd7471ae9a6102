"""How the scripts end that parse their options with argparse: as the commands of `fewspikes`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from fewspikes.commands.endings import ended


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int | None],
    *,
    writes: Callable[[argparse.Namespace], Sequence[str]] | None = None,
    files: Sequence[str] = (),
) -> int:
    """Parses the options, runs, and returns the exit code; see `endings.ended`.

    Args:
        parser: of the command; has ``--traceback``.
        run: the command; may return an exit code.
        writes: names of the files in ``--output``, a folder that is this run's alone.
        files: options, as attributes, that name a file to write.
    """
    options = parser.parse_args()
    return ended(
        lambda: run(options),
        traceback=options.traceback,
        files=[getattr(options, name) for name in files],
        writes=None if writes is None else lambda: (options.output, writes(options)),
    )
