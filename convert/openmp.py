"""Runs compiled code in the threads in which torch runs its own operations.

Threads of our own would compete with torch's, which spin for some milliseconds after every
operation in wait for the next.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import torch
from numba import types

THREAD = types.ExternalFunction("omp_get_thread_num", types.intc())


@cache
def loaded() -> Any:
    """GNU OpenMP as torch has loaded it, or None."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            found = ctypes.CDLL(str(path))
            address = ctypes.cast(found.omp_get_thread_num, ctypes.c_void_p).value
            found.GOMP_parallel.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_uint] * 2
            found.GOMP_parallel.restype = None
        except (OSError, AttributeError):
            continue
        llvm.add_symbol("omp_get_thread_num", address)
        return found
    llvm.add_symbol("omp_get_thread_num", ctypes.cast(_no_thread, ctypes.c_void_p).value)
    return None


@ctypes.CFUNCTYPE(ctypes.c_int)
def _no_thread() -> int:
    """What compiled code that knows of `THREAD` is linked to where there is no OpenMP."""
    return 0


def run(function: int, job: int, threads: int) -> None:
    """Calls a C function ``void (*)(void *)`` once in each of so many threads, and waits.

    Args:
        function: its address; it asks `THREAD` for its number.
        job: address of its argument.
        threads: how many.
    """
    loaded().GOMP_parallel(function, job, threads, 0)


def use_one_thread() -> None:
    """Lets torch work in the calling thread alone.

    A team of OpenMP's threads belongs to the thread that began it; with more of them than cores
    all teams stop spinning, and every operation of torch waits for its threads to wake.
    """
    if loaded() is not None:
        torch.get_num_threads()  # its first call in a thread would set the number anew
        loaded().omp_set_num_threads(1)
