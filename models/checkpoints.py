"""Reading and writing checkpoints: plain weights only, never a pickle that runs code.

Files of safetensors are read, too.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import ModelError
from .files import SAFETENSORS, shown, what_is, whole_file

# Names under which training scripts wrap a state dict.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 4


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """What a file written by `torch.save`, or one of safetensors, holds, on the CPU.

    Raises:
        ModelError: if there is no such file, or it holds more than plain tensors and containers.
    """
    file = Path(path)
    try:
        found = what_is(file)
    except (OSError, ValueError) as error:
        reason = "there is no such file"
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            reason = str(error.strerror)
        raise ModelError(f"no weights at {shown(file)}: {reason}; check the path") from error
    if found == SAFETENSORS:
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{shown(file)} can't be read as safetensors ({str(error)[:160]}); fetch it again"
            ) from error
    if found is not None:
        raise ModelError(
            f"{shown(file)} is no checkpoint: it is {found}; pass a file written by "
            "torch.save(model.state_dict(), path)"
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _runs_code(error):
            raise _unreadable(file, error) from error
        raise ModelError(
            f"{shown(file)} holds more than plain weights and was not opened, because it could run "
            "code: save model.state_dict() with torch.save and pass that file"
        ) from error
    except Exception as error:
        raise _unreadable(file, error) from error


def _runs_code(error: pickle.UnpicklingError) -> bool:
    """Whether torch refused what a pickle calls, and not a pickle that is damaged."""
    return any(word in str(error) for word in ("GLOBAL", "global", "Unsupported", "REDUCE"))


def _unreadable(file: Path, error: Exception) -> ModelError:
    reason = str(error)[:1000].strip().splitlines()[:1] or [type(error).__name__]
    if zipfile.is_zipfile(file) and not _has_pickle(file):
        reason = ["a zip archive without a pickle, as numpy.savez writes it"]
    return ModelError(
        f"{shown(file)} is not a checkpoint that torch.load can read ({reason[0][:160]}); pass a "
        "file written by torch.save(model.state_dict(), path)"
    )


def _has_pickle(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())


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
    # Weights that a model uses in two places are saved once.
    given = {id(value) for key, value in _tied(model).items() if key in found}
    optional |= {key for key, value in _tied(model).items() if id(value) in given}
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


def _tied(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every name of every parameter."""
    return dict(model.named_parameters(remove_duplicate=False))


def write_checkpoint(content: Any, path: str | os.PathLike[str]) -> None:
    """Writes plain tensors and containers; the file is whole or not there at all."""
    with whole_file(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how torch says that the disk is full
            raise OSError(f"{str(error).splitlines()[0][:160]}") from error
