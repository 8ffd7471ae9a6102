"""What a saved network's file says of it, read without torch and without building the network.

All checksums are verified, as `convert.load` does it; what a damaged program may have written into
a whole file is told as damage.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .endings import Refusal
from .saved import BAD_NETWORK

# Those of convert.network.report and convert.pages.verdict: errors beyond them are poor.
POOR_SITE, POOR_OUTPUT = 0.1, 0.25
_KEYS = ("name", "function", "steps", "gates", "low", "high", "relative_mse", "neurons", "events")


def facts_of(file: str) -> dict[str, Any]:
    """Everything that the file says, in JSON's types.

    Raises:
        Refusal: if it can't be read, or holds no network.
    """
    reader = importlib.import_module("fewspikes._convert.storage.container")
    errors = importlib.import_module("fewspikes._convert.errors")
    try:
        if not file:
            raise errors.StorageError("the path of the file is empty; give a file")
        graph, _ = reader.read(Path(file))
        document = json.loads(graph)
        return _facts(file, document)
    except errors.ConversionError as error:
        raise Refusal(BAD_NETWORK, error) from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Refusal(
            BAD_NETWORK, f"{file} holds no network that can be shown ({error}); save it again"
        ) from error


def _facts(file: str, document: Mapping[str, Any]) -> dict[str, Any]:
    networks = list(_networks(document))
    sites = [
        {key: _number(row.get(key)) for key in _KEYS}
        | {"name": f"{part}.{row['name']}" if part else row["name"]}
        | {"gates": row.get("gates", 0), "poor": _beyond(row["relative_mse"], POOR_SITE)}
        for part, network in networks
        for row in (network["report"] or {}).get("sites", ())
    ]
    reports = [network["report"] for _, network in networks if network["report"]]
    errors = [
        {key: _number(value) for key, value in row.items()}
        | {"poor": _beyond(row["error"], POOR_OUTPUT)}
        for report in reports
        for row in report.get("output_errors", ())
    ]
    metadata = dict(document["metadata"])
    return {
        "file": file,
        "bytes": Path(file).stat().st_size,
        "model": metadata.pop("model", None),
        "parts": [part for part, _ in networks if part],
        "steps": sorted({site["steps"] for site in sites}),
        "other_steps": sorted({int(k) for _, n in networks for k in n.get("refitted", ())}),
        "gates": sorted({site["gates"] for site in sites}),
        "neurons": sum(site["neurons"] for site in sites),
        "latency_steps": max((report["latency_steps"] for report in reports), default=0),
        "method": reports[0]["method"] if reports else None,
        "calibration_images": reports[0]["calibration_images"] if reports else 0,
        "verdict": _verdict(sites, errors, metadata.get("measured")),
        "output_errors": errors,
        "sites": sites,
        "settings": document.get("settings"),
        "versions": document["versions"],
        "metadata": metadata,
        "notes": [note for report in reports for note in report["notes"]],
    }


def _networks(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each network with the name of the part that it is; empty for a whole one."""
    if "parts" not in document:
        yield "", document
        return
    for part in document["parts"]:
        yield part["name"], part["network"]


def _number(value: Any) -> Any:
    """A value as JSON takes it: a file writes infinity as ``{"float": "inf"}``."""
    return value["float"] if isinstance(value, dict) else value


def _beyond(value: Any, limit: float) -> bool:
    """Whether an error is more than a limit; one that isn't finite is."""
    return isinstance(value, dict) or not value <= limit


def _verdict(sites: list[dict[str, Any]], errors: list[dict[str, Any]], measured: Any) -> str:
    """What is known of how good the network is, in a few sentences."""
    told = [_tested(measured)] if isinstance(measured, dict) else []
    for row in errors:
        error, off = row["error"], "Far from the original. " if row["poor"] else ""
        share = f"{error:.1%}" if isinstance(error, float) else str(error)
        told.append(
            f"{off}With K = {row['steps']} the outputs are off by {share} of their size on "
            f"{row['images']} calibration images."
        )
    if not errors:
        told.append("The outputs' error wasn't measured at conversion.")
    poor = [site["name"] for site in sites if site["poor"]]
    if poor:
        told.append(f"{len(poor)} of {len(sites)} sites fit poorly: {', '.join(poor[:3])}.")
    if not isinstance(measured, dict):
        told.append("No test is in the file; fewspikes evaluate measures accuracy.")
    return " ".join(told)


def _tested(measured: Mapping[str, Any]) -> str:
    return (
        f"Accuracy {measured['accuracy']:.2%} (original {measured['original_accuracy']:.2%}), "
        f"agreement {measured['agreement']:.2%} on {measured['images']} test images."
    )
