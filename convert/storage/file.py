"""Saving a spiking network to one file and loading it where its model's code isn't.

A file (`container`) holds a JSON document (graphs over an allow-list of operators, signature,
report, metadata) and the tensors. All checksums are verified before anything is parsed; loading
builds the graphs and never runs them, and nothing in a file is ever executed, unpickled or
imported.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..common.devices import usable_device
from ..common.files import atomic_path, file_path, shown
from ..common.messages import shortened
from ..errors import ConversionError, InputError, StorageError
from ..network.model import SpikingModel
from ..parts.model import SpikingParts
from .container import VERSION, WHOLE, packed, read
from .network_json import read_network, write_network
from .parts_json import read_parts, write_parts


def save(
    snn: SpikingModel, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes a network to one file, whole or not at all.

    Args:
        snn: the network; its exact functions, the neurons of other K, report and histograms
            travel with it. Hooks, and whether weights are trainable, do not.
        path: by convention ``*.fsnn``. The file that a link leads to is written; a file that
            exists keeps its permissions.
        metadata: numbers, strings, lists and dicts for the reader, kept as `snn.metadata`; None
            for what `snn.metadata` holds.

    Raises:
        StorageError: naming the operator or value that a file can't hold.
        InputError: if the file can't be written.
    """
    target = file_path(path)
    header, graph, content = _packed(snn, snn.metadata if metadata is None else metadata)
    with atomic_path(target) as temporary, open(temporary, "wb") as file:
        file.write(header)
        file.write(graph)
        file.write(content)


def _packed(snn: SpikingModel, metadata: Mapping[str, Any]) -> tuple[bytes, bytes, bytes]:
    """The three parts of a network's file."""
    if not isinstance(metadata, Mapping):
        raise StorageError(
            f"metadata must be a dict, found a value of type {type(metadata).__name__}"
        )
    if isinstance(snn, SpikingParts):
        (document, tensors), version = write_parts(snn, metadata), VERSION
    else:
        (document, tensors), version = write_network(snn, metadata), WHOLE
    try:
        _read(document, dict(tensors), torch.device("cpu"))
        text = json.dumps(document, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
        graph = text.encode("utf-8")
    except (ConversionError, ValueError, RecursionError) as error:
        raise StorageError(
            f"the network can't be saved so that it loads again: {shortened(error)}"
        ) from error
    content = safetensors.torch.save(tensors, {"json_sha256": hashlib.sha256(graph).hexdigest()})
    return packed(graph, content, version), graph, content


def _read(document: Any, tensors: dict[str, Tensor], device: torch.device) -> SpikingModel:
    """The network, or the parts of a model, that a document describes."""
    if isinstance(document, dict) and "parts" in document:
        return read_parts(document, tensors, device)
    return read_network(document, tensors, device)


def load(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    device: torch.device | str = "cpu",
) -> SpikingModel:
    """The network in a file that `SpikingModel.save` wrote; a stranger's file is safe to open.

    Its outputs are bit for bit those of the network that was saved. What is not checked is who
    wrote the file: whoever makes a file anew, checksums and all, makes another network.

    Args:
        path: the file.
        model: the user's, where the file holds converted parts of a model: they are put into a
            copy of it. Without it the parts are there, and can't be called as a whole.
        device: where the network lives.

    Raises:
        StorageError: if there is no such file, it was written by a newer version, is truncated or
            changed, or holds anything but a network.
        InputError: for what is no path, a device that can't be used here, or a model to which the
            parts don't belong.
    """
    file, place = file_path(path), usable_device(device)
    found = _unpacked(*read(file), shown(file), place)
    if model is None:
        return found
    if not isinstance(found, SpikingParts):
        raise InputError(
            f"{shown(file)} holds a whole network, which needs no model; leave model= out"
        )
    return found.into(model).to(place)


def _unpacked(graph: bytes, content: bytes, where: str, device: torch.device) -> SpikingModel:
    """The network in the JSON and the tensors of a file."""
    try:
        document = json.loads(
            graph.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        # Views into the file aren't aligned, and kernels may round otherwise there.
        tensors = {name: t.clone() for name, t in safetensors.torch.load(content).items()}
        network = _read(document, tensors, device)
        network.from_file = True
    except ConversionError as error:
        raise StorageError(f"{where} can't be loaded: {shortened(error)}") from error
    except (SafetensorError, ValueError, RecursionError, MemoryError) as error:
        raise StorageError(f"{where} is damaged: {shortened(error, 200)}; save it again") from error
    except Exception as error:
        raise StorageError(
            f"{where} holds no network that can be rebuilt ({type(error).__name__}: "
            f"{shortened(error, 200)}); save it again"
        ) from error
    try:
        return network.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(
            f"{where} can't be moved to {device} ({shortened(error, 160)}); load it on another "
            "device"
        ) from error


def pickled(snn: SpikingModel) -> tuple[Any, ...]:
    """A network for pickle: the contents of its file, and what a file leaves out.

    Raises:
        StorageError: naming what can't be saved.
    """
    _, graph, content = _packed(snn, snn.metadata)
    device = next((str(t.device) for t in snn.state_dict().values()), "cpu")
    learns = [name for name, p in snn.named_parameters() if p.requires_grad]
    training = [name for name, module in snn.named_modules() if module.training]
    return unpickled, (graph, content, device, learns, training, snn.check_inputs)


def unpickled(
    graph: bytes,
    content: bytes,
    device: str,
    learns: list[str],
    training: list[str],
    check_inputs: bool,
) -> SpikingModel:
    """The network that `pickled` took apart."""
    snn = _unpacked(graph, content, "the pickled network", torch.device(device))
    for name in learns:
        snn.get_parameter(name).requires_grad_()
    for name, module in snn.named_modules():
        module.training = name in training
    snn.check_inputs = check_inputs
    return snn


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise StorageError("an entry of the file occurs twice")
    return result


def _no_constant(name: str) -> Any:
    raise StorageError(f"{name} is no number of JSON")
