"""`fewspikes zoo`: the converted networks that come with the package."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from . import kinds
from .endings import WRONG_USE, Refusal, ended
from .options import Common, JsonFlag, text, together, value

FOLDER = Path(__file__).resolve().parents[1] / "zoo"
FIGURES = "figures.json"
EXAMPLES = """\
Examples:
  fewspikes zoo
  fewspikes zoo resnet20_silu --output net.fsnn
"""


@dataclass(kw_only=True)
class ZooOptions(Common):
    """What `fewspikes zoo` takes beside a name."""

    output: Annotated[
        Path | None, value(kinds.place, "FILE", "where the network's file is copied to")
    ] = None
    json: JsonFlag = False


_NONE_GIVEN = ZooOptions()


def zoo(
    name: Annotated[str | None, text("NAME", "of one network")] = None,
    /,
    *,
    options: Annotated[ZooOptions, together()] = _NONE_GIVEN,
) -> int:
    """Lists the converted networks that come with the package, or gives one out.

    With a name, what is known of that network; with --output, its file too.
    """
    return ended(lambda: _run(name, options), traceback=options.traceback, files=[options.output])


def figures() -> dict[str, dict[str, Any]]:
    """What was measured of each network, by its name."""
    found: dict[str, dict[str, Any]] = json.loads((FOLDER / FIGURES).read_text("utf-8"))
    return found


def file_of(name: str) -> Path:
    """The file of a network.

    Raises:
        Refusal: if there is none of this name.
    """
    known = figures()
    if name not in known:
        raise Refusal(WRONG_USE, f"the zoo has no {name[:60]!r}; it has {', '.join(sorted(known))}")
    return FOLDER / f"{name}.fsnn"


def _run(name: str | None, options: ZooOptions) -> None:
    if name is None and options.output is not None:
        raise Refusal(WRONG_USE, "--output needs the name of a network; fewspikes zoo lists them")
    found = figures() if name is None else {name: figures()[file_of(name).stem]}
    print(json.dumps(found, indent=1) if options.json else _told(found))
    if name is not None and options.output is not None:
        _copy(file_of(name), options.output)
        print(f"written: {options.output}", file=sys.stderr if options.json else sys.stdout)


def _copy(source: Path, target: Path) -> None:
    """Copies a file, whole or not at all."""
    files = importlib.import_module("fewspikes._convert.common.files")
    with files.atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _told(found: dict[str, dict[str, Any]]) -> str:
    """A table of networks."""
    table = importlib.import_module("fewspikes._convert.common.tables").table
    columns = (
        "network", "data", "K", "gates", "accuracy", "original", "agreement", "images",
        "spikes per neuron", "MB",
    )  # fmt: skip
    rows = [
        (
            name,
            row["data"],
            row["steps"],
            row["gates"],
            f"{row['accuracy']:.2%}",
            f"{row['original_accuracy']:.2%}",
            f"{row['agreement']:.2%}",
            row["images"],
            row["spikes_per_neuron"],
            f"{(FOLDER / f'{name}.fsnn').stat().st_size / 1e6:.2f}",
        )
        for name, row in found.items()
    ]
    return str(table(columns, rows))
