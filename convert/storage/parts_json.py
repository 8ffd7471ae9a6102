"""The converted parts of a model as a JSON document and named tensors, and back.

The model around them isn't in a file: its code is the user's, and so are its other weights. What
is kept of it is which model it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, StorageError
from ..network.model import SpikingModel
from ..network.report import Report
from ..parts.model import SpikingParts
from ..parts.origin import Origin
from ..parts.report import PartRow, joined
from ..parts.spiking_part import SpikingPart
from .graph_json import check_name
from .network_json import read_network, versions, write_network
from .record_json import plain, read_settings, row_of, take, unplain, write_settings

# A checksum as hexadecimal digits.
_DIGEST = 64


class Elsewhere(nn.Module):
    """Stands for a module that isn't in a file.

    Args:
        kind: the class of the model that it belongs to.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refused.

        Raises:
            InputError: with how to put the parts into the model.
        """
        raise InputError(
            f"the file holds the parts of a {self._kind[:80]}, not the model around them; give it "
            "by load(path, model=model), or call a part: snn.parts[name]"
        )


def write_parts(
    snn: SpikingParts, metadata: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything about a model's parts as JSON, and their tensors by name.

    Raises:
        StorageError: naming what can't be saved.
    """
    tensors: dict[str, Tensor] = {}
    written = []
    for index, (name, network) in enumerate(snn.parts.items()):
        document, own = write_network(network, network.metadata)
        tensors |= {f"{index}/{key}": tensor for key, tensor in own.items()}
        written.append({"name": name, "network": document})
    origin, report = snn.origin, snn.report
    return {
        "versions": versions(),
        "metadata": plain(metadata, "the metadata"),
        "parts": written,
        "paths": {check_name(name): list(map(check_name, p)) for name, p in snn.paths.items()},
        "lists": snn.signature.lists,
        "inputs": list(snn.signature.names),
        "model": {
            "class": origin.kind,
            "tensors": {
                name: [list(shape), digest] for name, (shape, digest) in origin.tensors.items()
            },
        },
        "settings": write_settings(report),
        "report": {
            "rows": [plain(dataclasses.asdict(row), "the report") for row in report.parts],
            "python": dict(report.python),
            "images": report.calibration_images,
            "notes": plain(report.about, "the report"),
        },
    }, tensors


def read_parts(document: Any, tensors: dict[str, Tensor], device: torch.device) -> SpikingParts:
    """The parts that a document describes, without the model around them.

    Raises:
        StorageError: naming what `write_parts` wouldn't have written.
    """
    networks: dict[str, SpikingModel] = {}
    for index, entry in enumerate(take(document, "parts", list)):
        own = {
            key.removeprefix(f"{index}/"): tensors.pop(key)
            for key in list(tensors)
            if key.startswith(f"{index}/")
        }
        name = take(entry, "name", str)
        networks[name] = read_network(take(entry, "network", dict), own, device)
        networks[name].from_file = True
    if tensors:
        raise StorageError(f"the tensor {next(iter(tensors))!r} belongs to no part")
    origin = _origin(take(document, "model", dict))
    paths = _paths(document, networks)
    lists, inputs = take(document, "lists", bool), take(document, "inputs", list)
    if not all(isinstance(name, str) for name in inputs):
        raise StorageError("the inputs of the model are damaged")
    data = take(document, "report", dict)
    rows = [row_of(PartRow, row) for row in take(data, "rows", list)]
    if [row.name for row in rows] != list(networks):
        raise StorageError("the rows of the report aren't those of the parts")
    module = _tree(paths, networks, [row.name for row in rows if row.alone], origin.kind)
    reports = {name: _report(network) for name, network in networks.items()}
    report = joined(
        reports,
        rows,
        {str(name): str(kind) for name, kind in take(data, "python", dict).items()},
        read_settings(document.get("settings")),
        take(data, "images", int),
        [str(note) for note in take(data, "notes", list)],
    )
    snn = SpikingParts(module, paths, report, lists, origin)
    snn.signature = snn.signature.renamed(inputs)
    snn.metadata = unplain(take(document, "metadata", dict))
    snn.from_file = True
    return snn.requires_grad_(False).eval()


def _report(network: SpikingModel) -> Report:
    if network.report is None:
        raise StorageError("a part has no report")
    return network.report


def _origin(data: Any) -> Origin:
    found = {}
    for name, row in take(data, "tensors", dict).items():
        fits = isinstance(row, list) and len(row) == 2 and isinstance(row[1], str)
        if not fits or not isinstance(row[0], list) or len(row[1]) > _DIGEST:
            raise StorageError("what is known of the model's weights is damaged")
        found[name] = tuple(row[0]), row[1]
    return Origin(take(data, "class", str), found)


def _paths(document: Any, networks: Mapping[str, SpikingModel]) -> dict[str, tuple[str, ...]]:
    """Where the parts are; the networks of one part follow each other: ``name``, ``name#2``."""
    found: dict[str, tuple[str, ...]] = {}
    for name, entry in take(document, "paths", dict).items():
        if not isinstance(entry, list) or name not in entry:
            raise StorageError("the names of the parts are damaged")
        found[check_name(name)] = tuple(map(check_name, entry))
    counted: dict[str, int] = {}
    for full in networks:
        name = full.partition("#")[0]
        counted[name] = counted.get(name, 0) + 1
        if full != (name if counted[name] == 1 else f"{name}#{counted[name]}"):
            raise StorageError("the networks of a part are damaged")
    if not found or list(counted) != list(found):
        raise StorageError("the names of the parts aren't those of their networks")
    return found


def _tree(
    paths: Mapping[str, tuple[str, ...]],
    networks: Mapping[str, SpikingModel],
    alone: Sequence[str],
    kind: str,
) -> nn.Module:
    """The parts at their places in a model that isn't there."""
    root = Elsewhere(kind)
    for name, places in paths.items():
        keys = [key for key in networks if key.partition("#")[0] == name]
        places_alone = [i for i, key in enumerate(keys) if key in alone]
        part = SpikingPart(Elsewhere(kind), name, [networks[key] for key in keys], places_alone)
        for place in places:
            at: nn.Module = root
            *outer, last = place.split(".")
            for piece in outer:
                if piece not in at._modules:
                    at.add_module(piece, Elsewhere(kind))
                inner = at._modules[piece]
                assert inner is not None
                if isinstance(inner, SpikingPart):
                    raise StorageError("a part lies inside another one")
                at = inner
            at._modules[last] = part
    return root
