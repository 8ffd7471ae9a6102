"""Saving a spiking network to one file and loading it where its model's code isn't.

The file: a mark of 8 bytes, the version, two lengths, a SHA-256 of everything, a JSON document
(graphs over an allow-list of operators, signature, report, metadata), and the tensors as
safetensors, which name the JSON's own SHA-256. All checksums are verified before anything is
parsed; loading builds the graphs and never runs them, and nothing in a file is ever executed,
unpickled or imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from ..common.files import atomic_path
from ..errors import ConversionError, StorageError
from ..network.model import SpikingModel
from .network_json import read_network, write_network

VERSION = 3
_MARK = b"FSPIKES\n"
# Mark, version, bytes of JSON, bytes of tensors, SHA-256 of all of it but itself.
_HEADER = struct.Struct("<8sIQQ32s")


def save(
    snn: SpikingModel, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes a network to one file, whole or not at all.

    Args:
        snn: the network; its exact functions, the neurons of other K, report and histograms
            travel with it. Hooks, and whether weights are trainable, do not.
        path: by convention ``*.fsnn``.
        metadata: numbers, strings, lists and dicts for the reader, kept as `snn.metadata`; None
            for what `snn.metadata` holds.

    Raises:
        StorageError: naming the operator or value that a file can't hold.
        InputError: if the folder can't be written to.
    """
    header, graph, content = _packed(snn, snn.metadata if metadata is None else metadata)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(header)
        file.write(graph)
        file.write(content)


def _packed(snn: SpikingModel, metadata: Mapping[str, Any]) -> tuple[bytes, bytes, bytes]:
    """The three parts of a network's file."""
    document, tensors = write_network(snn, metadata)
    try:
        read_network(document, dict(tensors), torch.device("cpu"))
    except ConversionError as error:
        raise StorageError(f"the network can't be saved so that it loads again: {error}") from error
    text = json.dumps(document, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    graph = text.encode("utf-8")
    content = safetensors.torch.save(tensors, {"json_sha256": hashlib.sha256(graph).hexdigest()})
    digest = _digest(VERSION, graph, content)
    return _HEADER.pack(_MARK, VERSION, len(graph), len(content), digest), graph, content


def load(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> SpikingModel:
    """The network in a file that `SpikingModel.save` wrote; a stranger's file is safe to open.

    Its outputs are bit for bit those of the network that was saved. What is not checked is who
    wrote the file: whoever makes a file anew, checksums and all, makes another network.

    Args:
        path: the file.
        device: where the network lives.

    Raises:
        StorageError: if there is no such file, it was written by a newer version, is truncated or
            changed, or holds anything but a network.
    """
    return _unpacked(*_read(Path(path)), str(path), torch.device(device))


def _unpacked(graph: bytes, content: bytes, where: str, device: torch.device) -> SpikingModel:
    """The network in the JSON and the tensors of a file."""
    try:
        document = json.loads(
            graph.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        # Views into the file aren't aligned, and kernels may round otherwise there.
        tensors = {name: t.clone() for name, t in safetensors.torch.load(content).items()}
        return read_network(document, tensors, device).to(device)
    except ConversionError as error:
        raise StorageError(f"{where} can't be loaded: {error}") from error
    except (SafetensorError, ValueError, RecursionError, MemoryError) as error:
        raise StorageError(f"{where} is damaged: {str(error)[:200]}; save it again") from error
    except Exception as error:
        raise StorageError(
            f"{where} holds no network that can be rebuilt ({type(error).__name__}: "
            f"{str(error)[:200]}); save it again"
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


def _read(path: Path) -> tuple[bytes, bytes]:
    """JSON and tensors of a file, checksums verified."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header = file.read(_HEADER.size)
            if not path.is_file() or len(header) < _HEADER.size or header[:8] != _MARK:
                raise StorageError(
                    f"{path} is not a network that was saved; give a file that snn.save(path) wrote"
                )
            _, found, json_size, tensor_size, digest = _HEADER.unpack(header)
            if found > VERSION:
                raise StorageError(
                    f"{path} has format version {found}, this fewspikes reads up to {VERSION}; "
                    "install a newer fewspikes, or save the network again with this one"
                )
            if found < 1 or _HEADER.size + json_size + tensor_size != size:
                raise StorageError(
                    f"{path} has {size:,} bytes instead of "
                    f"{_HEADER.size + json_size + tensor_size:,}; it is truncated or damaged, copy "
                    "or save it again"
                )
            graph, content = file.read(json_size), file.read(tensor_size)
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}; check the path") from error
    if _digest(found, graph, content) != digest:
        raise StorageError(
            f"{path} fails its checksum: it was changed after it was written; copy or save it again"
        )
    if _named_digest(content) != hashlib.sha256(graph).hexdigest():
        raise StorageError(f"{path}: its graph is not the one that its tensors were saved with")
    return graph, content


def _digest(number: int, graph: bytes, content: bytes) -> bytes:
    state = hashlib.sha256(_HEADER.pack(_MARK, number, len(graph), len(content), bytes(32)))
    state.update(graph)
    state.update(content)
    return state.digest()


def _named_digest(content: bytes) -> Any:
    """The JSON's checksum that the tensors' own header names."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        return json.loads(content[8 : 8 + length])["__metadata__"]["json_sha256"]
    except (struct.error, ValueError, KeyError, TypeError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise StorageError("an entry of the file occurs twice")
    return result


def _no_constant(name: str) -> Any:
    raise StorageError(f"{name} is no number of JSON")
