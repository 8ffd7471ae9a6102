"""Independent pieces of work over all cores, results in order whatever the number of workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Result = TypeVar("Result")


def run_all(
    tasks: Sequence[Callable[[], Result]], title: str = "fit", progress: bool = False
) -> list[Result]:
    """Runs the tasks in threads; they must release the interpreter's lock to gain from it."""
    if not tasks:
        return []
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            return [f.result() for f in tqdm(futures, title, disable=None if progress else True)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
