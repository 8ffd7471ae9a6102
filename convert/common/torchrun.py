"""The process group of a program that `torchrun` started several times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from ..errors import InputError

# Longest that processes wait for each other at the start, or inside one exchange.
_TIMEOUT = timedelta(seconds=60)


def rank() -> int:
    """The number of this process among those that torchrun started; 0 without it."""
    return _number("RANK", 0)


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """The group of torchrun's processes inside the block, and the device of this one.

    Without torchrun, and with one process, there is no group.

    Args:
        device: as the user named it; each process takes the GPU of its own number for ``"cuda"``.

    Raises:
        InputError: for one GPU that all processes would share, or fewer GPUs than processes.
    """
    if _number("WORLD_SIZE", 1) < 2:
        yield device
        return
    local = _number("LOCAL_RANK", 0)
    if device.startswith("cuda:") and _number("LOCAL_WORLD_SIZE", 1) > 1:
        raise InputError(
            f"device {device!r} would be that of every process; give 'cuda', and each takes the "
            "GPU of its own number"
        )
    backend = "gloo"
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"there are {torch.cuda.device_count()} GPUs here for "
                f"{_number('LOCAL_WORLD_SIZE', 1)} processes; give torchrun --nproc-per-node as "
                "many as there are GPUs"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    said = os.environ.get(name, "")
    return int(said) if said.isdecimal() else default
