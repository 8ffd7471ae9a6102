"""Reading and writing checkpoints: plain weights only, never a pickle that runs code."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ModelError

# Names under which training scripts wrap a state dict.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 4


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """What a file written by `torch.save` holds, on the CPU.

    Raises:
        ModelError: if there is no such file, or it holds more than plain tensors and containers.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"no weights at {file}: there is no such file; check the path")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file} holds more than plain weights and was not opened, because it could run code: "
            "save model.state_dict() with torch.save and pass that file"
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ModelError(
            f"{file} is not a checkpoint that torch.load can read ({reason[0][:160]}); pass a "
            "file written by torch.save(model.state_dict(), path)"
        ) from error


def state_dict_of(content: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a checkpoint: wrappers unwrapped, ``module.`` stripped."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
    if not tensors or not content:
        found = type(content).__name__
        if isinstance(content, Mapping):
            found = f"a dict with the keys {', '.join(map(str, list(content)[:_SHOWN]))}"
        raise ModelError(
            f"{path} holds {found}; pass a state dict of tensors, bare or under one of the keys "
            f"{', '.join(_WRAPPERS)}"
        )
    result = dict(content)
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in result):
            result = {key[len(prefix) :]: value for key, value in result.items()}
    return result


def load_weights(model: nn.Module, path: str | os.PathLike[str], name: str) -> None:
    """Loads a checkpoint into a model of the same architecture.

    Raises:
        ModelError: for a file that can't be read, or keys or shapes that are not the model's.
    """
    found = state_dict_of(read_checkpoint(path), path)
    wanted = model.state_dict()
    # Counts how often batch norm was updated; older checkpoints lack it and nothing reads it.
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in found and key not in optional]
    unknown = [key for key in found if key not in wanted]
    shapes = [
        f"{key} {list(found[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    if missing or unknown or shapes:
        parts = [
            f"{len(listed)} {what} ({', '.join(listed[:_SHOWN])}{', ...' * (len(listed) > _SHOWN)})"
            for what, listed in (
                ("missing", missing),
                ("unexpected", unknown),
                ("of another shape", shapes),
            )
            if listed
        ]
        raise ModelError(
            f"{path} is not a checkpoint of {name}: {'; '.join(parts)}; choose the --model that "
            "it was trained as"
        )
    model.load_state_dict(found, strict=False)


def write_checkpoint(content: Any, path: str | os.PathLike[str]) -> None:
    """Writes plain tensors and containers; the file is whole or not there at all."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".writing", delete=False) as handle:
        temporary = Path(handle.name)
    try:
        torch.save(content, temporary)
        temporary.chmod(0o644)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
