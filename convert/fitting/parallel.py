"""Independent pieces of work over all cores and processes, results in the order of the tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..common.progress import Progress
from ..common.ranks import on_this_machine, team
from .kept_tasks import remembered

Result = TypeVar("Result")


def run_all(
    tasks: Sequence[Callable[[], Result]], title: str = "fit", progress: bool = False
) -> list[Result]:
    """Runs the tasks in threads; they must release the interpreter's lock to gain from it.

    Of several processes that work together each runs a share, and all get all results: these must
    be picklable, and no task may change anything beside its result.
    """
    together = team()
    if together is None:
        return _run(tasks, title, progress)
    own = _run(together.share(list(tasks)), title, progress)
    return together.merged(title, own)


def _run(tasks: Sequence[Callable[[], Result]], title: str, progress: bool) -> list[Result]:
    if not tasks:
        return []
    tasks = remembered(tasks)
    pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // on_this_machine()))
    try:
        futures = [pool.submit(task) for task in tasks]
        return [f.result() for f in Progress(futures, title, shown=progress)]
    finally:
        # Whoever stops the run doesn't wait for the tasks that are under way.
        pool.shutdown(wait=False, cancel_futures=True)
