"""Short texts that differ where values, networks or programs differ."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from ..errors import ResumeError

_ROOT = Path(__file__).resolve().parents[1]
_LIBRARIES = ("torch", "numpy", "numba", "llvmlite")


def fingerprint(*values: Any) -> str:
    """32 hexadecimal digits of values: tensors, arrays, numbers, texts, and containers of them.

    Raises:
        ResumeError: for an object whose content can't be told.
    """
    state = hashlib.blake2b(digest_size=16)
    _feed(state, values)
    return state.hexdigest()


def of_network(network: nn.Module) -> str:
    """The fingerprint of a module: its modules, their graphs, parameters and buffers.

    Of a module that isn't a graph, the code is not looked at.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, module in network.named_modules():
        _feed(state, (name, type(module).__qualname__))
        # A graph's own text names its operations; what prints of others are their numbers.
        graph = isinstance(module, GraphModule)
        _feed(state, str(module.graph) if graph else module.extra_repr())
    for pairs in (
        network.named_parameters(remove_duplicate=False),
        network.named_buffers(remove_duplicate=False),
    ):
        for name, tensor in pairs:
            _feed(state, (name, tensor))
    return state.hexdigest()


def surroundings(device: torch.device | None = None) -> dict[str, str | int]:
    """What figures depend on beside what is computed: versions, threads, the processor.

    Args:
        device: where networks run; the CPU if None.
    """
    found: dict[str, str | int] = {
        "fewspikes' own code": _own_code(),
        "Python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
        "threads of torch": torch.get_num_threads(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": str(device or "cpu"),
        "precision of products": torch.get_float32_matmul_precision(),
    }
    if device is not None and device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
    return found


@cache
def _own_code() -> str:
    """The fingerprint of this package's files: a version number alone says too little."""
    state = hashlib.blake2b(digest_size=16)
    for path in sorted(_ROOT.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            _feed(state, path.relative_to(_ROOT).as_posix())
            _feed(state, path.read_bytes())
    return state.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _feed(state: Any, value: Any) -> None:
    """Adds a value, with its type and size, so that no two run into one another."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        state.update(f"tensor {plain.dtype} {[*plain.shape]};".encode())
        state.update(plain.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        state.update(f"array {value.dtype} {[*value.shape]};".encode())
        state.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, bytes | str):
        content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        state.update(f"{type(value).__name__} {len(content)};".encode())
        state.update(content)
    elif value is None or isinstance(value, Number | torch.dtype | torch.device | slice):
        state.update(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, Mapping):
        state.update(f"mapping {len(value)};".encode())
        for pair in value.items():
            _feed(state, pair)
    elif isinstance(value, list | tuple | np.ndarray):
        state.update(f"list {len(value)};".encode())
        for each in value:
            _feed(state, each)
    else:
        _feed_tree(state, value)


def _feed_tree(state: Any, value: Any) -> None:
    """Adds an object that PyTorch knows as a container."""
    leaves, spec = pytree.tree_flatten(value)
    if spec.is_leaf():
        raise ResumeError(
            f"a batch holds an object of type {type(value).__name__}, of which can't be told "
            "whether it is that of the run before; give tensors, arrays, numbers or texts, or "
            "leave resume= out"
        )
    _feed(state, (type(value).__qualname__, leaves))
