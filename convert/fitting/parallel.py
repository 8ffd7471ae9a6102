"""Independent pieces of work over all cores, results in order whatever the number of workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..common.progress import Progress
from .kept_tasks import remembered

Result = TypeVar("Result")


def run_all(
    tasks: Sequence[Callable[[], Result]], title: str = "fit", progress: bool = False
) -> list[Result]:
    """Runs the tasks in threads; they must release the interpreter's lock to gain from it."""
    if not tasks:
        return []
    tasks = remembered(tasks)
    pool = ThreadPoolExecutor(max(1, os.cpu_count() or 1))
    try:
        futures = [pool.submit(task) for task in tasks]
        return [f.result() for f in Progress(futures, title, shown=progress)]
    finally:
        # Whoever stops the run doesn't wait for the tasks that are under way.
        pool.shutdown(wait=False, cancel_futures=True)
