"""Who runs the Triton kernel, and where: a neuron's time steps in one pass over a GPU's memory.

Nothing waits for the GPU: the neuron's numbers are read where they lie, and the number of events
stays there. Where Triton is missing or makes no kernel, nobody is `ready`.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .steps import Tables

_LOG = logging.getLogger(__name__)
# Kinds of devices that run the kernel: of Nvidia and of AMD. Its interpreter runs on the CPU.
KINDS = frozenset({"cuda"})
HALF = (torch.float16, torch.bfloat16)
# Devices for which no kernel could be made.
_without: set[torch.device] = set()


def ready(device: torch.device) -> bool:
    """Whether the kernel runs on a device; the first call looks for Triton."""
    return device.type in KINDS and device not in _without and _kernel() is not None


@cache
def _kernel() -> ModuleType | None:
    """The module of the kernel; None where there is no Triton, or a broken one."""
    try:
        return import_module(".triton_kernel", __package__)
    except Exception as error:  # whatever a broken installation raises
        _warn_once(f"Triton can't be loaded ({_first_line(error)})")
        return None


def run(
    x: Tensor, addend: Tensor | None, y: Tensor, tables: Tables, steps: int,
    tally: Tensor | None, counting: bool,
) -> tuple[bool, Tensor | None]:  # fmt: skip
    """Takes values through a neuron's steps; whether that was done, and the number of events.

    The number is an int64 tensor on the device, and None if nobody asked for it.

    Args:
        x: values one after the other in memory ``[...]``, of floating point.
        addend: added to x first, of its type and layout; None for nothing.
        y: takes the output, of x's type and layout; it may be x itself.
        tables: of the neuron, of the type of the membrane potential.
        steps: how many of its K are done.
        tally: takes the events of each value in that order; None if nobody asks.
        counting: counts the events.
    """
    kernel = _kernel()
    assert kernel is not None
    tables.check_device(x)
    numbers = [t if t.is_contiguous() else t.contiguous() for t in tables[:4]]
    gates = None if tables.gates is None else tables.gates.contiguous()
    with _on(x.device):
        asked = counting or tally is not None
        count = torch.zeros((), dtype=torch.int64, device=x.device) if asked else None
        if not x.numel():
            return True, count
        try:
            kernel.launch(x, addend, y, numbers, gates, steps, tally, count)
        except Exception as error:  # whatever a missing or broken compiler raises
            _without.add(x.device)
            _warn_once(_first_line(error))
            return False, None
    return True, count


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the current one: a kernel starts there, whatever device its tensors are on."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@cache
def _warn_once(error: str) -> None:
    _LOG.warning("no kernel for the GPU, time steps run one by one: %s", error)
