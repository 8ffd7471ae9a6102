"""`fewspikes info`: what a file holds, at once, without running it."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from typing import Annotated, Any

from .endings import ended
from .file_facts import facts_of
from .options import Common, JsonFlag, Network, together

EXAMPLES = """\
Examples:
  fewspikes info out/resnet20_silu.fsnn
  fewspikes info out/resnet20_silu.fsnn --json
"""


@dataclass(kw_only=True)
class InfoOptions(Common):
    """What `fewspikes info` takes beside the file."""

    json: JsonFlag = False


_NONE_GIVEN = InfoOptions()


def info(file: Network, /, *, options: Annotated[InfoOptions, together()] = _NONE_GIVEN) -> int:
    """Shows what a file holds: sites, K, gates, settings, versions, and how good it is.

    The checksums are verified; the network isn't built, and nothing of it runs.
    """
    return ended(lambda: _run(file, options), traceback=options.traceback)


def _run(file: str, options: InfoOptions) -> None:
    facts = facts_of(file)
    print(json.dumps(facts, indent=1, allow_nan=False) if options.json else told(facts))


def told(facts: dict[str, Any]) -> str:
    """The facts for a reader.

    Args:
        facts: as `file_facts.facts_of` gives them.
    """
    table = importlib.import_module("fewspikes._convert.common.tables").table
    columns = ("site", "function", "K", "gates", "low", "high", "relative MSE", "neurons", "fit")
    rows = [
        (
            *(site[key] for key in ("name", "function", "steps", "gates", "low", "high")),
            site["relative_mse"],
            site["neurons"],
            "POOR" if site["poor"] else "",
        )
        for site in facts["sites"]
    ]
    parts = [
        "\n".join(f"{name + ':':<12} {text}" for name, text in _head(facts) if text),
        facts["verdict"],
        table(columns, rows),
        _listed("settings", facts["settings"]),
        _listed("versions", facts["versions"]),
        _listed("metadata", facts["metadata"]),
        "\n".join(f"note: {note}" for note in facts["notes"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _head(facts: dict[str, Any]) -> list[tuple[str, str]]:
    other = [k for k in facts["other_steps"] if k not in facts["steps"]]
    steps = ", ".join(map(str, facts["steps"]))
    if other:
        steps += f"; fitted for {', '.join(map(str, other))} too"
    return [
        ("file", f"{facts['file']}, {facts['bytes'] / 1e6:.2f} MB"),
        ("model", str(facts["model"] or "not named")),
        ("parts", ", ".join(facts["parts"])),
        ("K", steps),
        ("gates", ", ".join(map(str, facts["gates"]))),
        ("size", f"{len(facts['sites'])} sites, {facts['neurons']:,} neurons"),
        ("latency", f"{facts['latency_steps']} steps"),
        ("fitted by", f"{facts['method']}, on {facts['calibration_images']} calibration images"),
    ]


def _listed(title: str, values: dict[str, Any] | None) -> str:
    """Values by name; those that say nothing are left out."""
    said = {name: v for name, v in (values or {}).items() if v not in (None, False, {}, [], "")}
    return f"{title}: {', '.join(f'{name} {v}' for name, v in said.items())}" if said else ""
