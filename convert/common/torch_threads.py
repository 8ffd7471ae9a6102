"""Runs compiled code in the threads in which torch runs its own operations.

Threads of our own would compete with torch's, which spin for some milliseconds after every
operation in wait for the next.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch


@cache
def loaded() -> Any:
    """GNU OpenMP as torch has loaded it, or None."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            found = ctypes.CDLL(str(path))
            found.omp_get_thread_num.restype = ctypes.c_int
            found.GOMP_parallel.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_uint] * 2
            found.GOMP_parallel.restype = None
        except (OSError, AttributeError):
            continue
        return found
    return None


@cache
def asked() -> int:
    """Address of the C function that tells the number of a thread; 0 without OpenMP."""
    if loaded() is None:
        return 0
    return ctypes.cast(loaded().omp_get_thread_num, ctypes.c_void_p).value or 0


def run(function: int, job: int, threads: int) -> None:
    """Calls a C function ``void (*)(void *)`` once in each of so many threads, and waits.

    Args:
        function: its address; it calls the one at `asked` for its number.
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
